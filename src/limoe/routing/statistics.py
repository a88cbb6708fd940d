"""What happened in a router, in numbers a person can judge; padding never counts."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limoe.types import RouterOutput


class ModalityStatistics(NamedTuple):
    """Routing of one modality in one layer.

    `success_rate`: share of assignments that got a seat (the paper's health indicator). `load`: share of the modality's
    assignments per expert, before drops, sums to 1. `local_entropy`: mean entropy of a token's gates, in nats.
    `global_entropy`: entropy of the mean gate, in nats. `load_cv`: standard deviation / mean of `load` over experts.
    `dead_experts`: experts that nobody of this modality chose. Where the modality is absent that is E, the rest NaN.
    """

    success_rate: Float[Tensor, ""]
    load: Float[Tensor, "E"]
    local_entropy: Float[Tensor, ""]
    global_entropy: Float[Tensor, ""]
    load_cv: Float[Tensor, ""]
    dead_experts: Int[Tensor, ""]


def entropy(log_probs: Float[Tensor, "... E"]) -> Float[Tensor, "..."]:
    """-sum p ln p in nats, from log-probabilities, with 0 ln 0 = 0."""
    probs = log_probs.exp()
    return -(probs * log_probs.masked_fill(probs == 0, 0.0)).sum(-1)


@torch.no_grad()
def modality_statistics(routed: RouterOutput, modality: int) -> ModalityStatistics:
    weight = routed.weight_of(modality)
    count = weight.sum()
    k = routed.expert_index.shape[1]
    chosen = torch.zeros(routed.num_experts, dtype=weight.dtype, device=weight.device)
    chosen = chosen.index_add(0, routed.expert_index.reshape(-1), weight.repeat_interleave(k))
    load = chosen / (count * k)
    mean_gate = (weight[:, None] * routed.log_probs.exp()).sum(0) / count
    return ModalityStatistics(
        success_rate=(weight[:, None] * routed.kept).sum() / (count * k),
        load=load,
        local_entropy=(weight * entropy(routed.log_probs)).sum() / count,
        global_entropy=entropy(mean_gate.log()),
        load_cv=load.std(unbiased=False) / load.mean(),
        dead_experts=(chosen == 0).sum(),
    )
