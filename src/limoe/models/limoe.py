"""LIMoE: one tower that embeds images and texts (arXiv 2206.02770)."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from limoe.models.dual_encoder import DualEncoder
from limoe.models.layers import ImageEmbed, TextEmbed, masked_mean
from limoe.models.tower import Tower
from limoe.types import IMAGE, TEXT, ModelOutput, PackedTokens, Segment


class LIMoE(DualEncoder):
    """One transformer for both modalities; only the embedding in front and the head behind know which is which.

    Images and texts are separate sequences: attention never crosses. They meet in the MLPs, in the routers, in the
    capacity of the experts, and in the loss. `moe_layers=[]` makes the same model dense.

    Args:
        width: D.
        depth: blocks.
        num_heads: attention heads.
        mlp_dim: hidden width H of every MLP and expert.
        image_size: side of the square input, pixels.
        patch_size: side of a patch, pixels; n_i = (image_size / patch_size)^2.
        vocab_size: rows of the token table.
        text_length: n_t.
        moe_layers: which blocks are sparse, numbered from 0.
        num_experts: E.
        router: factory of the routers, `router(dim, num_experts=E)`.
        expert_init: "identical" or "independent".
        expert_backend: how experts multiply: "auto", "padded", "grouped" or "loop".
        activation_checkpointing: keep only the inputs of each block in training and compute the rest twice.
        out_dim: width of the joint space; None = D.
        init_logit_scale: factor on the cosines at the start.
        max_logit_scale: upper clamp of that factor, applied by `clamp_logit_scale`.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        num_heads: int,
        mlp_dim: int,
        image_size: int,
        patch_size: int,
        vocab_size: int,
        text_length: int,
        moe_layers: Sequence[int] = (),
        num_experts: int = 1,
        router: Callable[..., nn.Module] | None = None,
        expert_init: str = "identical",
        expert_backend: str = "auto",
        activation_checkpointing: bool = False,
        out_dim: int | None = None,
        init_logit_scale: float = 10.0,
        max_logit_scale: float = 100.0,
    ) -> None:
        super().__init__()
        self.image_embed = ImageEmbed(width, image_size=image_size, patch_size=patch_size)
        self.text_embed = TextEmbed(width, vocab_size=vocab_size, length=text_length)
        self.tower = Tower(
            width,
            depth=depth,
            num_heads=num_heads,
            mlp_dim=mlp_dim,
            moe_layers=moe_layers,
            num_experts=num_experts,
            router=router,
            expert_init=expert_init,
            expert_backend=expert_backend,
            activation_checkpointing=activation_checkpointing,
        )
        self.add_heads(
            image_width=width,
            text_width=width,
            out_dim=width if out_dim is None else out_dim,
            init_logit_scale=init_logit_scale,
            max_logit_scale=max_logit_scale,
        )

    def forward(
        self,
        images: Float[Tensor, "B 3 h w"],
        text_ids: Int[Tensor, "B n_t"],
        text_mask: Bool[Tensor, "B n_t"],
    ) -> ModelOutput:
        image_tokens = self.image_embed(images)  # B, n_i, D
        text_tokens = self.text_embed(text_ids)  # B, n_t, D

        # [T, D] all image tokens, then all text tokens
        x = torch.cat([image_tokens.flatten(0, 1), text_tokens.flatten(0, 1)])
        image_segment = Segment(IMAGE, size=len(images), length=image_tokens.shape[1])
        text_segment = Segment(TEXT, size=len(text_ids), length=text_tokens.shape[1], mask=text_mask)
        tokens = PackedTokens.of([image_segment, text_segment], device=x.device)
        x, routing = self.tower(x, tokens)

        # [B, D] the mean token of each sequence
        image_tokens, text_tokens = tokens.split(x)
        pooled_images = image_tokens.mean(1)
        pooled_texts = masked_mean(text_tokens, text_mask)
        return self.output(pooled_images, pooled_texts, routing=routing)

    def transformer_blocks(self) -> list[nn.Module]:
        return list(self.tower.blocks)

    def image_trunk(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B D"]:
        pooled, _ = self.tower.pooled(self.image_embed(images), IMAGE)
        return pooled

    def text_trunk(self, text_ids: Int[Tensor, "B n_t"], text_mask: Bool[Tensor, "B n_t"]) -> Float[Tensor, "B D"]:
        pooled, _ = self.tower.pooled(self.text_embed(text_ids), TEXT, text_mask)
        return pooled
