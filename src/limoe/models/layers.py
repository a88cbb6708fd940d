"""The dense parts: attention inside each modality, the pre-LN block, embeddings, and the reference's initialisation.

Values where PyTorch's defaults differ from the reference (vmoe): LayerNorm eps 1e-6, tanh GELU, xavier-uniform per
attention projection, MLP biases N(0, 1e-6), lecun-normal patch convolution and heads.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from limoe.errors import require_argument
from limoe.nn import lecun_normal_
from limoe.types import PackedTokens, RouterOutput

LayerNorm = partial(nn.LayerNorm, eps=1e-6)
_SHORT = 64  # tokens


class Mlp(nn.Module):
    """D -> H -> D with tanh GELU. Takes `tokens` and ignores them, so that its signature is that of `MoE`."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Float[Tensor, "T D"], tokens: PackedTokens) -> tuple[Float[Tensor, "T D"], None]:
        hidden = F.gelu(self.fc1(x), approximate="tanh")  # T, H
        return self.fc2(hidden), None


class Attention(nn.Module):
    """Multi-head attention inside each sequence of each modality; the linear maps see all packed tokens at once."""

    def __init__(self, dim: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        for projection in (*self.qkv.weight.chunk(3), self.proj.weight):
            nn.init.xavier_uniform_(projection)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Float[Tensor, "T D"], tokens: PackedTokens) -> Float[Tensor, "T D"]:
        parts = []
        for qkv, segment in zip(tokens.split(self.qkv(x)), tokens.segments, strict=True):
            # [B, n, 3 * D] -> query, key and value [B, heads, n, D / heads]
            qkv = qkv.unflatten(-1, (3, self.num_heads, -1))
            query, key, value = qkv.permute(2, 0, 3, 1, 4)
            mask = None if segment.mask is None else attention_mask(segment.mask)
            out = attend(query, key, value, mask)

            # [B, heads, n, D / heads] -> the tokens of the segment [B * n, D]
            out = out.transpose(1, 2)
            parts.append(out.reshape(segment.num_tokens, -1))
        return self.proj(torch.cat(parts))


def attend(
    query: Float[Tensor, "B h n d"],
    key: Float[Tensor, "B h n d"],
    value: Float[Tensor, "B h n d"],
    mask: Bool[Tensor, "B 1 1 n"] | None,
) -> Float[Tensor, "B h n d"]:
    """Softmax attention to the keys that `mask` allows (None: to all).

    By PyTorch's fused kernel; for short sequences on a CPU by plain products in float32, which are up to twice as fast
    there, and two to seven times in bfloat16 (docs/performance.md).
    """
    if query.device.type != "cpu" or key.shape[-2] > _SHORT:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    # the plain products, in float32 whatever autocast asks for
    dtype = torch.promote_types(value.dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        scores = query.to(dtype) @ key.to(dtype).mT  # B, h, n, n
        scores = scores * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        return (scores.softmax(-1) @ value.to(dtype)).to(value.dtype)


def attention_mask(valid: Bool[Tensor, "B n"]) -> Bool[Tensor, "B 1 1 n"]:
    """Keys that may be attended; a sequence without any real token attends to all, so that no softmax is empty."""
    is_empty = ~valid.any(-1, keepdim=True)
    return (valid | is_empty)[:, None, None, :]


class Block(nn.Module):
    """x + attention(LN(x)), then x + mlp(LN(x)); `mlp` is dense or sparse and says what its router did."""

    def __init__(self, dim: int, *, num_heads: int, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.norm2 = LayerNorm(dim)
        self.attn = Attention(dim, num_heads=num_heads)
        self.mlp = mlp

    def forward(
        self, x: Float[Tensor, "T D"], tokens: PackedTokens
    ) -> tuple[Float[Tensor, "T D"], RouterOutput | None]:
        # attention, inside each sequence
        normed = self.norm1(x)
        x = x + self.attn(normed, tokens)

        # the MLP, for all tokens at once
        normed = self.norm2(x)
        y, routing = self.mlp(normed, tokens)
        return x + y, routing


class PatchEmbed(nn.Module):
    """A convolution whose stride is its size (without timm's own, which imports torchvision: two seconds at start)."""

    def __init__(self, dim: int, *, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)
        lecun_normal_(self.proj.weight)
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B n_i D"]:
        patches = self.proj(images)  # B, D, rows, columns
        return patches.flatten(2).transpose(1, 2)


class ImageEmbed(nn.Module):
    """Patches of `patch_size` pixels plus learned positions; no class token.

    Raises:
        ArgumentError: `patch_size` does not divide `image_size`, or an image has another size.
    """

    def __init__(self, dim: int, *, image_size: int, patch_size: int) -> None:
        super().__init__()
        rule = f"a multiple of patch_size={patch_size}"
        require_argument(image_size % patch_size == 0, "image_size", rule, image_size)
        self.image_size = image_size
        self.patch_embed = PatchEmbed(dim, patch_size=patch_size)
        num_patches = (image_size // patch_size) ** 2
        self.pos_embed = nn.Parameter(torch.empty(num_patches, dim))
        nn.init.normal_(self.pos_embed, std=0.02)

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B n_i D"]:
        height, width = images.shape[-2:]
        fits = height == width == self.image_size
        require_argument(fits, "images", f"{self.image_size} x {self.image_size} pixels", f"{height} x {width}")
        return self.patch_embed(images) + self.pos_embed


class TextEmbed(nn.Module):
    """A learned table plus learned positions."""

    def __init__(self, dim: int, *, vocab_size: int, length: int) -> None:
        super().__init__()
        self.token_embed = nn.Embedding(vocab_size, dim)
        nn.init.normal_(self.token_embed.weight, std=dim**-0.5)
        self.pos_embed = nn.Parameter(torch.empty(length, dim))
        nn.init.normal_(self.pos_embed, std=0.02)

    def forward(self, text_ids: Int[Tensor, "B n_t"]) -> Float[Tensor, "B n_t D"]:
        length = text_ids.shape[1]
        return self.token_embed(text_ids) + self.pos_embed[:length]


def masked_mean(x: Float[Tensor, "B n D"], mask: Bool[Tensor, "B n"]) -> Float[Tensor, "B D"]:
    """Mean over the real tokens of each sequence; 0 for a sequence without any."""
    weight = mask.to(x.dtype)[..., None]  # B, n, 1
    total = (x * weight).sum(1)
    count = weight.sum(1).clamp_min(1)
    return total / count


def linear_head(dim: int, out_dim: int) -> nn.Linear:
    """A bias-free linear map, lecun-normal."""
    head = nn.Linear(dim, out_dim, bias=False)
    lecun_normal_(head.weight)
    return head
