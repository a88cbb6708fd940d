"""Routers without parameters: the expert follows from where a token stands, or from chance."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limoe.errors import require_argument
from limoe.routing.token_choice import UNREACHABLE_LOGIT, Choice, TokenChoiceRouter
from limoe.types import PackedTokens, Segment

_MASK = 0xFFFFFFFF


class FixedRouter(TokenChoiceRouter):
    """One expert per token with gate 1. Subclasses define `expert_of`.

    All gates are equal, so `priority=bpr` is the order of the tokens. The logits are those of a one-hot softmax and
    carry no gradient: statistics work, losses on the router are constants.

    Arguments: those of `TokenChoiceRouter`, with `k` = 1; `dim` is not used.
    """

    learns = False
    has_threshold = False
    gates_differ = False

    def __init__(self, dim: int, **slots: Any) -> None:
        super().__init__(**slots)
        require_argument(self.k == 1, "k", "1 for a router that gives each token one expert", self.k)

    @abstractmethod
    def expert_of(self, tokens: PackedTokens) -> Int[Tensor, "T"]:
        """The expert of each token."""

    def choose(self, x: Float[Tensor, "T D"], tokens: PackedTokens) -> Choice:
        # [T, E] one-hot gates of the given expert
        expert_index = self.expert_of(tokens)[:, None]
        dtype = torch.promote_types(x.dtype, torch.float32)
        gates = torch.zeros(len(x), self.num_experts, device=x.device, dtype=dtype)
        gates = gates.scatter(1, expert_index, 1.0)

        # logits with this softmax: 0 at the given expert, out of reach elsewhere
        logits = (1 - gates) * UNREACHABLE_LOGIT
        gate = gates.gather(1, expert_index)
        return Choice(logits, logits, gates, expert_index, gate, top_gate=gate[:, 0])

    def notes(self) -> list[str]:
        own = (
            "This router learns nothing: the expert follows from a token's place or from chance. Gates are 1, "
            "entropies 0, and the order of patches is the order of the images."
        )
        return [own, *super().notes()]


class HashRouter(FixedRouter):
    """Expert = hash(modality, position in the sequence): the same in all layers, steps and runs.

    In the spirit of Hash Layers (arXiv 2106.04426), but not the same thing: theirs hashes the vocabulary id of a token,
    which image patches do not have, so here the position stands in. As in their balanced variant every expert gets
    equally many positions of a sequence (give or take one): the hash orders the positions, and the rank modulo E is
    the expert. No sample depends on its batch unless slots are limited in evaluation.

    Args:
        hash_seed: which hash.
        dim, fixed: see `FixedRouter`.
    """

    def __init__(self, dim: int, *, hash_seed: int = 0, **fixed: Any) -> None:
        super().__init__(dim, **fixed)
        require_argument(hash_seed >= 0, "hash_seed", ">= 0", hash_seed)
        self.hash_seed = hash_seed

    def expert_of(self, tokens: PackedTokens) -> Int[Tensor, "T"]:
        return torch.cat([self._of_segment(segment, tokens.modality.device) for segment in tokens.segments])

    def _of_segment(self, segment: Segment, device: torch.device) -> Int[Tensor, "n"]:
        position = torch.arange(segment.length, device=device)
        start = (self.hash_seed * 0x85EBCA6B + (segment.modality + 1) * 0x9E3779B9) & _MASK
        # the rank of each position in the order of the hashes
        order = _scramble(position + start).argsort(stable=True)
        rank = order.argsort(stable=True)
        return (rank % self.num_experts).repeat(segment.size)


class RandomRouter(FixedRouter):
    """A uniformly random expert for each token, drawn anew at every call, in evaluation too: a lower bound.

    So features of the same sample differ from call to call. Arguments: see `FixedRouter`.
    """

    depends_on_batch = True

    def expert_of(self, tokens: PackedTokens) -> Int[Tensor, "T"]:
        return torch.randint_like(tokens.modality, self.num_experts)


class RoundRobinRouter(FixedRouter):
    """Expert = place among the packed tokens modulo E: perfectly balanced, for measuring speed.

    Padding takes its turn too, though it is not computed. Arguments: see `FixedRouter`.
    """

    depends_on_batch = True  # a sample's place among the packed tokens follows from its place in the batch

    def expert_of(self, tokens: PackedTokens) -> Int[Tensor, "T"]:
        return torch.arange(len(tokens.modality), device=tokens.modality.device) % self.num_experts


def _scramble(x: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
    """A mixing hash on 32 bits (two rounds of multiply and shift), in 64-bit integers that cannot overflow."""
    for _ in range(2):
        x = x & _MASK
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & _MASK
    return x ^ (x >> 16)
