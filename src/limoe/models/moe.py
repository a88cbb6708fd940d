"""The sparse layer: route, dispatch, experts, combine."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limoe.errors import require
from limoe.types import RouterOutput, Stream


class MoE(nn.Module):
    """Stands where a dense MLP stands. A token without a seat gets zero and lives on through the residual.

    Args:
        dim: width D.
        hidden_dim: H of every expert.
        num_experts: E.
        router: factory called as `router(dim, num_experts=E)`; the module maps (x [T, D], stream) to a RouterOutput.
        expert_init: see `Experts`.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden_dim: int,
        num_experts: int,
        router: Callable[..., nn.Module],
        expert_init: str = "identical",
    ) -> None:
        super().__init__()
        self.router = router(dim, num_experts=num_experts)
        self.experts = Experts(dim, hidden_dim=hidden_dim, num_experts=num_experts, init=expert_init)

    def forward(self, x: Float[Tensor, "T D"], stream: Stream) -> tuple[Float[Tensor, "T D"], RouterOutput]:
        routed = self.router(x, stream)  # route
        rows = routed.plan.dispatch(x)  # dispatch
        rows = self.experts(rows, routed.plan.counts)  # experts
        return routed.plan.combine(rows).to(x.dtype), routed  # combine (gates are float32 even where x is not)


class Experts(nn.Module):
    """E MLPs D -> H -> D (tanh GELU) as stacked parameters: an idle expert gets a zero gradient, never none.

    Args:
        dim: width D.
        hidden_dim: H.
        num_experts: E.
        init: "identical" (all experts start as the same MLP, as in vmoe's configs) or "independent".
    """

    def __init__(self, dim: int, *, hidden_dim: int, num_experts: int, init: str = "identical") -> None:
        super().__init__()
        require(num_experts >= 1, "model.num_experts", ">= 1", num_experts)
        require(init in ("identical", "independent"), "model.expert_init", "'identical' or 'independent'", init)
        self.weight_in = nn.Parameter(_stack(num_experts, init, (dim, hidden_dim), nn.init.xavier_uniform_))
        self.bias_in = nn.Parameter(_stack(num_experts, init, (hidden_dim,), _tiny_normal_))
        self.weight_out = nn.Parameter(_stack(num_experts, init, (hidden_dim, dim), nn.init.xavier_uniform_))
        self.bias_out = nn.Parameter(_stack(num_experts, init, (dim,), _tiny_normal_))

    def forward(self, rows: Float[Tensor, "... D"], counts: list[int] | None) -> Float[Tensor, "... D"]:
        """Rows [E, S, D], or [N, D] sorted by expert with `counts[e]` rows of expert e."""
        if counts is None:
            hidden = F.gelu(torch.baddbmm(self.bias_in[:, None], rows, self.weight_in), approximate="tanh")
            return torch.baddbmm(self.bias_out[:, None], hidden, self.weight_out)
        parameters = (self.weight_in, self.bias_in, self.weight_out, self.bias_out)
        # unbind once: indexing the stack inside the loop would make the backward quadratic in E
        experts = zip(rows.split(counts), *(p.unbind(0) for p in parameters), strict=True)
        return torch.cat([_mlp(x, *expert) for x, *expert in experts])


def _mlp(x: Tensor, weight_in: Tensor, bias_in: Tensor, weight_out: Tensor, bias_out: Tensor) -> Tensor:
    hidden = F.gelu(torch.addmm(bias_in, x, weight_in), approximate="tanh")
    return torch.addmm(bias_out, hidden, weight_out)


def _tiny_normal_(x: Tensor) -> Tensor:
    return nn.init.normal_(x, std=1e-6)


def _stack(num_experts: int, init: str, shape: tuple[int, ...], fill_: Callable[[Tensor], Tensor]) -> Tensor:
    """[E, *shape]; the fan of the initialiser is that of one expert."""
    if init == "identical":
        return fill_(torch.empty(shape)).expand(num_experts, *shape).clone()
    return torch.stack([fill_(torch.empty(shape)) for _ in range(num_experts)])
