"""A transformer: blocks over the packed tokens, some with a sparse MLP, then the final norm."""

from collections.abc import Callable, Sequence

from jaxtyping import Bool, Float
from torch import Tensor, nn

from limoe.errors import require_argument
from limoe.models.layers import Block, LayerNorm, Mlp, masked_mean
from limoe.models.moe import MoE
from limoe.nn import recomputed
from limoe.types import PackedTokens, RouterOutput, Segment


class Tower(nn.Module):
    """`depth` pre-LN blocks; block l is sparse where l is in `moe_layers` (numbered from 0).

    With `activation_checkpointing` a training step keeps the input of each block and computes the rest again.
    """

    def __init__(
        self,
        width: int,
        *,
        depth: int,
        num_heads: int,
        mlp_dim: int,
        moe_layers: Sequence[int] = (),
        num_experts: int = 1,
        router: Callable[..., nn.Module] | None = None,
        expert_init: str = "identical",
        expert_backend: str = "auto",
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        require_argument(depth >= 1, "depth", ">= 1", depth)
        require_argument(width % num_heads == 0, "width", f"a multiple of num_heads={num_heads}", width)
        is_unique = len(set(moe_layers)) == len(moe_layers)
        in_range = all(0 <= layer < depth for layer in moe_layers)
        rule = f"distinct numbers from 0 to {depth - 1}"
        require_argument(is_unique and in_range, "moe_layers", rule, list(moe_layers))
        has_router = router is not None or len(moe_layers) == 0
        require_argument(has_router, "router", "given where moe_layers is not empty", router)

        def mlp(layer: int) -> nn.Module:
            if layer not in moe_layers or router is None:
                return Mlp(width, mlp_dim)
            return MoE(
                width,
                hidden_dim=mlp_dim,
                num_experts=num_experts,
                router=router,
                expert_init=expert_init,
                expert_backend=expert_backend,
            )

        self.blocks = nn.ModuleList(Block(width, num_heads=num_heads, mlp=mlp(i)) for i in range(depth))
        self.norm = LayerNorm(width)
        self.activation_checkpointing = activation_checkpointing

    def forward(
        self, x: Float[Tensor, "T D"], tokens: PackedTokens
    ) -> tuple[Float[Tensor, "T D"], dict[int, RouterOutput]]:
        routing = {}
        for layer, block in enumerate(self.blocks):
            if self.activation_checkpointing:
                x, routed = recomputed(block, x, tokens)
            else:
                x, routed = block(x, tokens)
            if routed is not None:
                routing[layer] = routed
        return self.norm(x), routing

    def pooled(
        self, embedded: Float[Tensor, "B n D"], modality: int, mask: Bool[Tensor, "B n"] | None = None
    ) -> tuple[Float[Tensor, "B D"], dict[int, RouterOutput]]:
        """The mean tokens of sequences of one modality alone, and what each router decided, by layer."""
        batch_size, length, _ = embedded.shape
        segment = Segment(modality, size=batch_size, length=length, mask=mask)
        tokens = PackedTokens.of([segment], device=embedded.device)

        # [B * n, D] through the tower, and back to sequences
        x, routing = self(embedded.flatten(0, 1), tokens)
        x = x.view_as(embedded)
        return x.mean(1) if mask is None else masked_mean(x, mask), routing
