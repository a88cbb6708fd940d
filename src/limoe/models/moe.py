"""The sparse layer: route, dispatch, experts, combine."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from limoe.models.experts import Experts
from limoe.types import PackedTokens, RouterOutput


class MoE(nn.Module):
    """The sparse counterpart of the dense MLP; a dropped token gets 0, so its residual passes unchanged.

    `router` is a factory called as `router(dim, num_experts=E)`; the module maps (x [T, D], tokens) to a dispatcher
    and a RouterOutput. The other arguments are those of `Experts`.
    """

    router: Any

    def __init__(self, dim: int, *, num_experts: int, router: Callable[..., nn.Module], **experts: Any) -> None:
        super().__init__()
        self.router = router(dim, num_experts=num_experts)
        self.experts = Experts(dim, num_experts=num_experts, **experts)

    def forward(self, x: Float[Tensor, "T D"], tokens: PackedTokens) -> tuple[Float[Tensor, "T D"], RouterOutput]:
        dispatcher, routing = self.router(x, tokens)  # route
        layout = self.experts.select_layout(dispatcher)
        expert_tokens = dispatcher.dispatch(x.to(self.experts.compute_dtype()), layout)  # dispatch
        expert_tokens = self.experts(expert_tokens)  # experts
        return dispatcher.combine(expert_tokens).to(x.dtype), routing  # combine (gates are float32 even where x is not)
