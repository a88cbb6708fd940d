"""The parts of a model that cost something, whatever kind of model it is; models without values."""

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
    """What is built inside has shapes and types alone and takes no memory."""
    with torch.device("meta"), _NoInit():
        yield


class _NoInit(TorchFunctionMode):
    """Initialisers have nothing to fill there, and would import PyTorch's compiler, which takes a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


class TowerPart(NamedTuple):
    """A tower of ours and the modalities that pass it: tokens of one sequence by "image" and "text"."""

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
    """Tokens of one sequence, where an embedding of ours makes them for a tower of ours."""
    return {name: len(embed.pos_embed) for name, embed in embeds.items() if isinstance(embed, (ImageEmbed, TextEmbed))}
