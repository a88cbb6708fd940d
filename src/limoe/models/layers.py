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

from limoe.errors import require
from limoe.initialisation import lecun_normal_
from limoe.types import RouterOutput, Stream

LayerNorm = partial(nn.LayerNorm, eps=1e-6)
_SHORT = 64  # tokens


class Mlp(nn.Module):
    """D -> H -> D with tanh GELU. Takes and ignores the stream, so that it stands where a sparse layer can."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Float[Tensor, "T D"], stream: Stream) -> tuple[Float[Tensor, "T D"], None]:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh")), None


class Attention(nn.Module):
    """Multi-head attention inside each sequence of each modality; the linear maps see the whole packed stream."""

    def __init__(self, dim: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        for projection in (*self.qkv.weight.chunk(3), self.proj.weight):
            nn.init.xavier_uniform_(projection)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Float[Tensor, "T D"], stream: Stream) -> Float[Tensor, "T D"]:
        parts = []
        for qkv, segment in zip(stream.split(self.qkv(x)), stream.segments, strict=True):
            query, key, value = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
            mask = None if segment.mask is None else attention_mask(segment.mask)
            out = attend(query, key, value, mask)
            parts.append(out.transpose(1, 2).reshape(segment.num_tokens, -1))
        return self.proj(torch.cat(parts))


def attend(
    query: Float[Tensor, "B h n d"],
    key: Float[Tensor, "B h n d"],
    value: Float[Tensor, "B h n d"],
    mask: Bool[Tensor, "B 1 1 n"] | None,
) -> Float[Tensor, "B h n d"]:
    """Softmax attention to the keys that `mask` allows (None: to all).

    PyTorch's fused product; of short sequences on a CPU plain ones in float32, which there are up to twice as fast, and
    in bfloat16 two to seven times (docs/performance.md).
    """
    if query.device.type != "cpu" or key.shape[-2] > _SHORT:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    dtype = torch.promote_types(value.dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        scores = query.to(dtype) @ key.to(dtype).mT * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        return (scores.softmax(-1) @ value.to(dtype)).to(value.dtype)


def attention_mask(valid: Bool[Tensor, "B n"]) -> Bool[Tensor, "B 1 1 n"]:
    """Keys that may be attended; a sequence without any real token attends to all, so that no softmax is empty."""
    return (valid | ~valid.any(-1, keepdim=True))[:, None, None, :]


class Block(nn.Module):
    """x + attention(LN(x)), then x + mlp(LN(x)); `mlp` is dense or sparse and says what its router did."""

    def __init__(self, dim: int, *, num_heads: int, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.attn = Attention(dim, num_heads=num_heads)
        self.mlp = mlp

    def forward(self, x: Float[Tensor, "T D"], stream: Stream) -> tuple[Float[Tensor, "T D"], RouterOutput | None]:
        x = x + self.attn(self.norm1(x), stream)
        y, routed = self.mlp(self.norm2(x), stream)
        return x + y, routed


class PatchEmbed(nn.Module):
    """A convolution whose stride is its size. (timm's own would import torchvision, two seconds for every command.)"""

    def __init__(self, dim: int, *, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)
        for parameter in self.proj.parameters():
            (lecun_normal_ if parameter.ndim > 1 else nn.init.zeros_)(parameter)

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B n_i D"]:
        return self.proj(images).flatten(2).transpose(1, 2)


class ImageEmbed(nn.Module):
    """Patches of `patch_size` pixels plus learned positions; no class token.

    Raises:
        ConfigError: `patch_size` does not divide `image_size`, or a picture has another size.
    """

    def __init__(self, dim: int, *, image_size: int, patch_size: int) -> None:
        super().__init__()
        divides, rule = image_size % patch_size == 0, f"a multiple of model.patch_size={patch_size}"
        require(divides, "model.image_size", rule, image_size)
        self.image_size = image_size
        self.patch_embed = PatchEmbed(dim, patch_size=patch_size)
        self.pos_embed = nn.Parameter(nn.init.normal_(torch.empty((image_size // patch_size) ** 2, dim), std=0.02))

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B n_i D"]:
        height, width = images.shape[-2:]
        fits = height == width == self.image_size
        require(fits, "data.image_size", f"model.image_size={self.image_size}", f"{height} x {width}")
        return self.patch_embed(images) + self.pos_embed


class TextEmbed(nn.Module):
    """A learned table plus learned positions."""

    def __init__(self, dim: int, *, vocab_size: int, length: int) -> None:
        super().__init__()
        self.token_embed = nn.Embedding(vocab_size, dim)
        nn.init.normal_(self.token_embed.weight, std=dim**-0.5)
        self.pos_embed = nn.Parameter(nn.init.normal_(torch.empty(length, dim), std=0.02))

    def forward(self, text_ids: Int[Tensor, "B n_t"]) -> Float[Tensor, "B n_t D"]:
        return self.token_embed(text_ids) + self.pos_embed[: text_ids.shape[1]]


def masked_mean(x: Float[Tensor, "B n D"], mask: Bool[Tensor, "B n"] | None) -> Float[Tensor, "B D"]:
    """Mean over the real tokens of each sequence; 0 for a sequence without any."""
    if mask is None:
        return x.mean(1)
    weight = mask.to(x.dtype)[..., None]
    return (x * weight).sum(1) / weight.sum(1).clamp_min(1)


def linear_head(dim: int, out_dim: int) -> nn.Linear:
    """A bias-free linear map, lecun-normal."""
    head = nn.Linear(dim, out_dim, bias=False)
    lecun_normal_(head.weight)
    return head
