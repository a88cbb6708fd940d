"""Towers, embeddings and heads of a model of any kind; models on the meta device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from limoe.models.encoders import TowerEncoder
from limoe.models.layers import Block, ImageEmbed, TextEmbed
from limoe.models.limoe import LIMoE
from limoe.models.moe import MoE
from limoe.models.tower import Tower
from limoe.models.two_tower import TwoTower


@contextmanager
def without_values() -> Iterator[None]:
    """Build modules on the meta device inside the block: shapes and types only, no memory."""
    with torch.device("meta"), _NoInit():
        yield


class _NoInit(TorchFunctionMode):
    """Skip `torch.nn.init`: meta tensors hold no values, and its calls import PyTorch's compiler, which takes 1 s."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


class TowerPart(NamedTuple):
    """A tower of limoe, and the tokens of one sequence of each modality that passes it ("image", "text")."""

    tower: Tower
    lengths: dict[str, int]

    @property
    def blocks(self) -> Iterator[Block]:
        return (block for block in self.tower.blocks if isinstance(block, Block))

    @property
    def sparse(self) -> list[MoE]:
        return [block.mlp for block in self.blocks if isinstance(block.mlp, MoE)]

    @property
    def tokens_per_pair(self) -> int:
        return sum(self.lengths.values())


class Anatomy(NamedTuple):
    """`embeds` and `heads` by modality. The image embedding of a timm encoder is the whole encoder."""

    towers: list[TowerPart]
    embeds: dict[str, Any]
    heads: dict[str, nn.Module]

    def towers_of(self, modality: str) -> list[TowerPart]:
        return [part for part in self.towers if modality in part.lengths]


def anatomy(model: LIMoE | TwoTower) -> Anatomy:
    """Split a model into its towers, embeddings and heads."""
    heads = {"image": model.image_head, "text": model.text_head}
    if isinstance(model, LIMoE):
        embeds: dict[str, Any] = {"image": model.image_embed, "text": model.text_embed}
        return Anatomy([TowerPart(model.tower, _lengths(embeds))], embeds, heads)
    embeds = {}
    towers = []
    for name, encoder in (("image", model.image), ("text", model.text)):
        if isinstance(encoder, TowerEncoder):
            embeds[name] = encoder.embed
            towers.append(TowerPart(encoder.tower, _lengths({name: encoder.embed})))
        else:
            embeds[name] = encoder
    return Anatomy(towers, embeds, heads)


def _lengths(embeds: dict[str, Any]) -> dict[str, int]:
    """Tokens of one sequence by modality; encoders of timm are left out."""
    return {name: len(embed.pos_embed) for name, embed in embeds.items() if isinstance(embed, (ImageEmbed, TextEmbed))}
