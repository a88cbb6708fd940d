"""What the layers are given: shapes, tokens, and a router weight under which every expert gets the same share."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from limoe.types import IMAGE, TEXT, PackedTokens, Segment

PAIRS, TEXT_TOKENS = 64, 16


@dataclass(frozen=True)
class Case:
    """One row block of the table. `num_tokens` is split into 64 pairs of some image tokens and 16 text tokens.

    With `balanced` the router is real, but tokens are made such that their logits name each expert equally often, also
    within every pair, so that nobody is dropped for more than rounding. Otherwise tokens and weight are random, and a
    layer that drops tokens has less to do.
    """

    num_tokens: int
    num_experts: int
    k: int
    dtype: str
    width: int
    hidden: int
    device: str
    balanced: bool = True

    @property
    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == "bfloat16")

    @cached_property
    def packed(self) -> PackedTokens:
        length = self.num_tokens // PAIRS
        segments = [Segment(IMAGE, PAIRS, length - TEXT_TOKENS), Segment(TEXT, PAIRS, TEXT_TOKENS)]
        return PackedTokens.of(segments, device=torch.device(self.device))

    @cached_property
    def router_weight(self) -> Tensor:
        """[E, D], orthogonal rows of length 2."""
        rows = torch.linalg.qr(torch.randn(self.width, self.num_experts, generator=_generator())).Q.T
        return (2 * rows).contiguous().to(self.device)

    @cached_property
    def x(self) -> Tensor:
        x = torch.randn(self.num_tokens, self.width, generator=_generator()).to(self.device)
        if self.balanced:
            rows = self.router_weight / 2
            x = x - (0.9 * x @ rows.T) @ rows  # a little of the noise stays, so that gates and priorities differ
            for choice, strength in ((0, 3.0), (1, 1.5)):
                x = x + strength * rows[(self._share() + choice * self.num_experts // 2) % self.num_experts]
        return x

    def _share(self) -> Tensor:
        """[T]: experts in turn along the pairs, shuffled within each pair."""
        shuffled = self.packed.pair.cpu() + torch.rand(self.num_tokens, generator=_generator())
        order = shuffled.argsort()
        turn = torch.arange(self.num_tokens) % self.num_experts
        return torch.empty_like(turn).scatter(0, order, turn).to(self.device)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
