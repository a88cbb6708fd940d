"""Routers without parameters: the expert follows from where a token stands, or from chance."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limoe.routing.token_choice import NEVER, Choice, SeatedRouter
from limoe.types import Stream


class FixedRouter(SeatedRouter):
    """One expert per token with gate 1. Subclasses define `expert_of`.

    All gates are equal, so `priority=bpr` is the order of the stream. The logits are those of a one-hot softmax and
    carry no gradient: statistics work, losses on the router are constants.

    Args:
        dim: not used.
        num_experts: E.
        settings: see `SeatedRouter` and `Router`.
    """

    learns = False
    has_threshold = False

    def __init__(self, dim: int, *, num_experts: int, **settings: Any) -> None:
        super().__init__(num_experts=num_experts, **settings)

    def expert_of(self, stream: Stream) -> Int[Tensor, "T"]:
        raise NotImplementedError

    def choose(self, x: Float[Tensor, "T D"], stream: Stream) -> Choice:
        expert_index = self.expert_of(stream)[:, None]
        gates = torch.zeros(
            len(x), self.num_experts, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32)
        )
        gates = gates.scatter(1, expert_index, 1.0)
        logits = (1 - gates) * NEVER
        gate = gates.gather(1, expert_index)
        return Choice(logits, logits, gates, expert_index, gate, top_gate=gate[:, 0])
