"""Estimated bytes of a training step on one device, without libraries and fragmentation."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limoe.accounting.anatomy import Anatomy, TowerPart
from limoe.accounting.parameters import count
from limoe.models.layers import Block, ImageEmbed, TextEmbed
from limoe.models.moe import MoE

_MIN_FACTORED = 32  # the smallest second-largest axis that Adafactor factors (limoe.training.optim)
_ROUTER_COPIES = 5  # arrays [T, E] in float32 that a router and its losses keep: logits, noisy, gates, log-softmax, p
_LOGIT_COPIES = 3  # arrays [B, B] in float32 at the peak: logits, their log-softmax, a gradient


class Precision(NamedTuple):
    """Bytes of one element: a parameter, an activation of the residual stream, an operand of a matrix product."""

    parameter: int
    residual: int
    compute: int

    @classmethod
    def of(cls, name: str | int) -> "Precision":
        """Bytes for a value of `trainer.precision`; unknown names count as 32-true."""
        kind, _, mode = str(name).partition("-")
        if kind in ("bf16", "16"):
            return cls(4, 4, 2) if mode == "mixed" else cls(2, 2, 2)
        return cls(8, 8, 8) if kind == "64" else cls(4, 4, 4)


def memory(
    model: nn.Module,
    parts: Anatomy,
    *,
    pairs: int,
    micro_batch: int,
    precision: str | int,
    optimizer: str,
    chunk_size: int | None = None,
    averages: int = 0,
) -> dict[str, Any]:
    """Bytes by purpose, and `total`.

    Args:
        pairs: pairs of a step on this device.
        micro_batch: pairs per forward pass; of the others the routers' outputs and the features are kept.
        precision: value of `trainer.precision`.
        optimizer: "adamw", "adafactor" or "lion"; for others the state is unknown (None) and not in the total.
        chunk_size: rows of the similarity matrix that exist at a time; None = all.
        averages: additional copies of the parameters (EMA).
    """
    size = Precision.of(precision)
    trained = [p for p in model.parameters() if p.requires_grad]
    numbers = sum(p.numel() for p in trained)
    stored = count(model) * size.parameter
    per_pair = activations_per_pair(parts, size=size, pairs=micro_batch)
    kept = routing_per_pair(parts)
    matrices = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    found: dict[str, Any] = {
        "parameters": stored,
        "average": averages * stored,
        "gradients": numbers * size.parameter,
        "optimizer": optimizer_state(trained, optimizer=optimizer, size=size),
        "weight_copies": matrices * size.compute if size.compute < size.parameter else 0,
        "activations": round(per_pair * micro_batch + kept * (pairs - micro_batch)),
        "contrastive": _LOGIT_COPIES * 4 * pairs * min(pairs, chunk_size or pairs),
    }
    total = sum(value for value in found.values() if value is not None)
    return {"precision": str(precision), **found, "total": total, "activations_per_pair": round(per_pair)}


def optimizer_state(parameters: list[nn.Parameter], *, optimizer: str, size: Precision) -> int | None:
    """Bytes of optimizer state: AdamW keeps two numbers per parameter, Lion one, Adafactor a bfloat16 momentum and two
    sums of squares per matrix (over rows and over columns)."""
    numbers = sum(p.numel() for p in parameters)
    if optimizer == "adafactor":
        return 2 * numbers + size.parameter * sum(_factored(p) for p in parameters)
    per_parameter = {"adamw": 2, "lion": 1}.get(optimizer)
    return None if per_parameter is None else per_parameter * numbers * size.parameter


def _factored(parameter: Tensor) -> int:
    """Elements of Adafactor's second moment: sums over each of the two largest axes."""
    axes = sorted(parameter.shape)
    if len(axes) < 2 or axes[-2] < _MIN_FACTORED:
        return parameter.numel()
    return parameter.numel() // axes[-1] + parameter.numel() // axes[-2]


def activations_per_pair(parts: Anatomy, *, size: Precision, pairs: int) -> float:
    """Bytes that the forward keeps per pair for the backward; a CPU also keeps the attention scores of short sequences.

    With activation checkpointing a block keeps its input and its router's output; one block is counted in full.
    """
    total = sum(_embed(embed, size) for embed in parts.embeds.values())
    for part in parts.towers:
        blocks = [_block(block, part, size, pairs=pairs) for block in part.blocks]
        if part.tower.activation_checkpointing:
            inputs = len(blocks) * part.tokens_per_pair * part.tower.norm.normalized_shape[0] * size.residual
            total += inputs + routing_per_pair(parts._replace(towers=[part])) + max(blocks)
        else:
            total += sum(blocks)
    return total


def routing_per_pair(parts: Anatomy) -> float:
    """Bytes that routers and their losses keep per pair: float32 in every precision."""
    return sum(part.tokens_per_pair * _router_of_token(moe) for part in parts.towers for moe in part.sparse)


def _router_of_token(moe: MoE) -> float:
    return 4 * _ROUTER_COPIES * len(moe.experts.weight_in)


def _block(block: Block, part: TowerPart, size: Precision, *, pairs: int) -> float:
    """Bytes of one block per pair. Two norms keep their input, D each. Matrix products and attention keep D for the
    input of QKV, 3 D for QKV, D for the heads' output, D for its copy; the MLP D + 2 H (before and after the GELU)."""
    width, tokens = block.attn.proj.in_features, part.tokens_per_pair
    mlp: Any = block.mlp
    norms, attention = 2 * width * size.residual, 6 * width * size.compute
    if not isinstance(mlp, MoE):
        hidden = mlp.fc1.out_features
        return tokens * (norms + attention + (width + 2 * hidden) * size.compute)
    rows = mlp.router.usage(part.lengths, pairs=pairs).computed_rows
    hidden = mlp.experts.weight_in.shape[-1]
    router = tokens * (width * max(4, size.residual) + _router_of_token(mlp))
    return tokens * (norms + attention) + router + rows * 2 * (width + hidden) * size.compute


def _embed(embed: Any, size: Precision) -> float:
    """Bytes of the pixels; for a timm encoder all that its forward keeps, counted on one image in float32 and scaled
    with the precision as a block of limoe (38 D of 68 D bytes in mixed precision, at H = 4 D)."""
    if isinstance(embed, TextEmbed):
        return 0.0
    pixels = 3.0 * embed.image_size**2
    if isinstance(embed, ImageEmbed):
        return pixels * size.compute
    scale = (8 * size.residual + 60 * size.compute) / 68 / 4 if size.residual else 1.0
    return pixels * size.residual + scale * _kept(embed)


def _kept(encoder: Any) -> float:
    """Bytes that autograd saves in the forward of one image, parameters left out."""
    own = {_storage(p) for p in encoder.parameters()}
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            held[_storage(tensor)] = tensor
        return tensor

    images = torch.empty(1, 3, encoder.image_size, encoder.image_size, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features, _ = encoder(images)
    del features
    return sum(math.prod(tensor.shape) * tensor.element_size() for tensor in held.values())


def _storage(tensor: Tensor) -> int:
    """Identity of the storage (every data pointer on the meta device is 0)."""
    return tensor.untyped_storage()._cdata
