"""The experts of a sparse layer: their parameters, and which backend multiplies them."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limoe.errors import require_argument
from limoe.models.expert_backends import BACKENDS, ExpertWeights, run_experts, select_layout
from limoe.types import Dispatcher, ExpertTokens


class Experts(nn.Module):
    """E MLPs D -> H -> D (tanh GELU) as stacked parameters: an idle expert gets a zero gradient, never none.

    Args:
        dim: width D.
        hidden_dim: H.
        num_experts: E.
        expert_init: "identical" (all experts start as the same MLP, as in vmoe's configs) or "independent".
        expert_backend: "auto", "padded", "grouped" or "loop", see `limoe.models.expert_backends`.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden_dim: int,
        num_experts: int,
        expert_init: str = "identical",
        expert_backend: str = "auto",
    ) -> None:
        super().__init__()
        require_argument(num_experts >= 1, "num_experts", ">= 1", num_experts)
        is_init = expert_init in ("identical", "independent")
        require_argument(is_init, "expert_init", "'identical' or 'independent'", expert_init)
        is_backend = expert_backend in BACKENDS
        require_argument(is_backend, "expert_backend", f"one of {', '.join(BACKENDS)}", expert_backend)
        self.expert_backend = expert_backend
        self.weight_in = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))
        self.bias_in = nn.Parameter(torch.empty(num_experts, hidden_dim))
        self.weight_out = nn.Parameter(torch.empty(num_experts, hidden_dim, dim))
        self.bias_out = nn.Parameter(torch.empty(num_experts, dim))
        for stacked in self.weights():
            _fill(stacked, is_identical=expert_init == "identical")

    def forward(self, expert_tokens: ExpertTokens) -> ExpertTokens:
        """Every row through its expert, in the same layout; rows that belong to no expert hold anything."""
        return run_experts(expert_tokens, weights=self.weights(self.compute_dtype()), backend=self.expert_backend)

    def select_layout(self, dispatcher: Dispatcher) -> str:
        """The layout of the dispatcher that suits these experts best."""
        return select_layout(self.expert_backend, dispatcher, weight=self.weight_in, dtype=self.compute_dtype())

    def compute_dtype(self) -> torch.dtype:
        """What autocast asks for, else the type of the parameters.

        Autocast itself reaches neither grouped products nor own autograd functions, and would cast the weights once per
        use instead of once per pass.
        """
        device = self.weight_in.device.type
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
        return self.weight_in.dtype

    def weights(self, dtype: torch.dtype | None = None) -> ExpertWeights:
        """All parameters, cast to `dtype`; None = as they are."""
        stored = ExpertWeights(self.weight_in, self.bias_in, self.weight_out, self.bias_out)
        if dtype is None:
            return stored
        return ExpertWeights(*(parameter.to(dtype) for parameter in stored))


@torch.no_grad()
def _fill(stacked: Float[Tensor, "E ..."], *, is_identical: bool) -> None:
    """Xavier-uniform matrices and biases near 0, the same or other numbers for each expert, each with its own fan."""
    for expert in stacked[:1] if is_identical else stacked:
        if expert.ndim > 1:
            nn.init.xavier_uniform_(expert)
        else:
            nn.init.normal_(expert, std=1e-6)
    if is_identical:
        stacked[1:] = stacked[0]
