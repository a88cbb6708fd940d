"""A fixed hash of where a token stands: the baseline that shows what learning to route is worth."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from limoe.errors import require
from limoe.routing.fixed import FixedRouter
from limoe.types import Segment, Stream

_MASK = 0xFFFFFFFF


class HashRouter(FixedRouter):
    """Expert = hash(modality, position in the sequence): the same in all layers, steps and runs.

    In the spirit of Hash Layers (arXiv 2106.04426), but not the same thing: theirs hashes the vocabulary id of a token,
    which image patches do not have, so here the position stands in. As in their balanced variant every expert gets
    equally many positions of a sequence (give or take one): the hash orders the positions, and the rank modulo E is
    the expert. No sample depends on its batch unless seats are limited in evaluation.

    Args:
        dim: not used.
        num_experts: E.
        hash_seed: which hash.
        settings: see `SeatedRouter` and `Router`.
    """

    def __init__(self, dim: int, *, num_experts: int, hash_seed: int = 0, **settings: Any) -> None:
        super().__init__(dim, num_experts=num_experts, **settings)
        require(hash_seed >= 0, "routing.hash_seed", ">= 0", hash_seed)
        self.hash_seed = hash_seed

    def expert_of(self, stream: Stream) -> Int[Tensor, "T"]:
        return torch.cat([self._segment(s, stream.modality.device) for s in stream.segments])

    def _segment(self, segment: Segment, device: torch.device) -> Int[Tensor, "n"]:
        position = torch.arange(segment.length, device=device)
        start = (self.hash_seed * 0x85EBCA6B + (segment.modality + 1) * 0x9E3779B9) & _MASK
        rank = _scramble(position + start).argsort(stable=True).argsort(stable=True)
        return (rank % self.num_experts).repeat(segment.size)


def _scramble(x: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
    """A mixing hash on 32 bits (two rounds of multiply and shift), in 64-bit integers that cannot overflow."""
    for _ in range(2):
        x = x & _MASK
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & _MASK
    return x ^ (x >> 16)
