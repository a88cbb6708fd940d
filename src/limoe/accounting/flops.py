"""FLOPs of one image, text and pair, by closed formulas (timm encoders: counted)."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import nn

from limoe.accounting.anatomy import Anatomy, TowerPart
from limoe.models.layers import Block, ImageEmbed, TextEmbed
from limoe.models.moe import MoE
from limoe.types import MODALITIES

Work = Float64[np.ndarray, "2"]  # FLOPs of the forward, and of the backward alone
_NOTHING = np.zeros(2)


def product(rows: float, weight: float, *, input_grad: bool = True) -> Work:
    """FLOPs of `rows` vectors times a matrix of `weight` elements; the backward costs as much per gradient."""
    return 2.0 * rows * weight * np.array([1, 1 + input_grad])


def attention(length: int, width: int) -> Work:
    """FLOPs of the scores and of their product with the values: L^2 D multiply-adds each; the backward has four such
    products. The second computation of the scores in fused kernels is not counted."""
    return 2.0 * length**2 * width * np.array([2, 4])


def flops(parts: Anatomy, *, pairs: int) -> dict[str, int]:
    """FLOPs of one image, text and pair, forward and in a training step (forward and backward) of `pairs` pairs.

    `image`, `text`, `pair` count each token at its experts, none dropped. `pair_all_slots` counts every slot, empty
    or not, as the padded backend computes them. The products of the contrastive loss (2 B d_out per pair and direction)
    are left out.
    """
    sides = {name: _side(parts, name, pairs=pairs) for name in MODALITIES}
    sides["pair"] = sum(sides.values(), start=_NOTHING)
    empty = sum((_empty_slots(part, pairs=pairs) for part in parts.towers), start=_NOTHING)
    sides["pair_all_slots"] = sides["pair"] + empty
    found = {name: work[0] for name, work in sides.items()}
    found |= {f"train_{name}": work.sum() for name, work in sides.items()}
    found["train_step"] = found["train_pair"] * pairs
    return {name: round(value) for name, value in found.items()}


def _side(parts: Anatomy, modality: str, *, pairs: int) -> Work:
    """FLOPs of one sequence of a modality, from input to feature."""
    embed, head = parts.embeds[modality], parts.heads[modality]
    towers = [_tower(part, modality, pairs=pairs) for part in parts.towers_of(modality)]
    input_grad = any(parameter.requires_grad for parameter in embed.parameters())
    last = product(1, head.weight.numel(), input_grad=input_grad) if isinstance(head, nn.Linear) else _NOTHING
    return sum(towers, start=_embed(embed) + last)


def _embed(embed: Any) -> Work:
    if isinstance(embed, TextEmbed):
        return _NOTHING  # a table lookup has no multiplications
    if isinstance(embed, ImageEmbed):
        return product(len(embed.pos_embed), embed.patch_embed.proj.weight.numel(), input_grad=False)
    return counted(embed)


def _tower(part: TowerPart, modality: str, *, pairs: int) -> Work:
    blocks = sum((_block(block, part, modality, pairs=pairs) for block in part.blocks), start=_NOTHING)
    if not part.tower.activation_checkpointing:
        return blocks
    # recomputed, except the last product of a dense MLP: its backward needs its inputs only
    dense: list[Any] = [block.mlp for block in part.blocks if not isinstance(block.mlp, MoE)]
    spared = (product(part.lengths[modality], mlp.fc2.weight.numel())[0] for mlp in dense)
    return blocks + np.array([0.0, blocks[0] - sum(spared)])


def _block(block: Block, part: TowerPart, modality: str, *, pairs: int) -> Work:
    length, mlp = part.lengths[modality], block.mlp
    projections = product(length, block.attn.qkv.weight.numel() + block.attn.proj.weight.numel())
    mixed = projections + attention(length, block.attn.proj.in_features)
    if isinstance(mlp, MoE):
        rows = mlp.router.usage(part.lengths, pairs=pairs).rows[modality]
        return mixed + product(length, mlp.router.macs_per_token()) + _experts(mlp, rows)
    return mixed + product(length, sum(p.numel() for p in mlp.parameters() if p.ndim > 1))


def _experts(moe: MoE, rows: float) -> Work:
    weights = moe.experts.weights()
    return product(rows, weights.weight_in[0].numel() + weights.weight_out[0].numel())


def _empty_slots(part: TowerPart, *, pairs: int) -> Work:
    """FLOPs of the padded backend beyond the needed rows, per pair; negative where there are fewer slots."""
    total = _NOTHING
    for moe in part.sparse:
        usage = moe.router.usage(part.lengths, pairs=pairs)
        extra = _experts(moe, usage.computed_rows - sum(usage.rows.values()))
        again = extra[0] if part.tower.activation_checkpointing else 0.0
        total = total + extra + np.array([0.0, again])
    return total


def counted(encoder: Any) -> Work:
    """FLOPs of one image in an encoder of timm, counted by PyTorch on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    images = torch.empty(1, 3, encoder.image_size, encoder.image_size, device="meta")
    with FlopCounterMode(display=False) as forward:
        features, _ = encoder(images)
    if not features.requires_grad:
        return np.array([forward.get_total_flops(), 0.0])
    with FlopCounterMode(display=False) as backward:
        features.sum().backward()
    encoder.zero_grad(set_to_none=True)
    return np.array([forward.get_total_flops(), backward.get_total_flops()], dtype=float)
