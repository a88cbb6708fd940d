"""What happened in a router, in numbers a person can judge; padding never counts."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limoe.types import RouterOutput

QUANTILES = (0.05, 0.5, 0.95)  # of the top gate
OWN_MAJORITY, OWN_SHARE = 0.5, 0.01  # see `own_experts`


class ModalityStatistics(NamedTuple):
    """Routing of one modality in one layer. Where it is absent the counts are 0 (dead experts E) and the rest NaN.

    `assignments`: tokens times K. `success_rate`: share of them that got a seat (the paper's health indicator).
    `load`: their share per expert before drops, sums to 1. `kept_load`: what is left of it after drops, sums to the
    success rate. `load_cv`: standard deviation / mean of `load` over experts. `top_share`: share of the tokens that
    chose the most chosen one. `dead_experts`: experts that nobody of this modality chose. `own_experts`: experts with
    more than 1 % of the modality's assignments that get more than half of theirs from it, before drops (for text the
    paper's "text experts"; the limits are ours). `local_entropy`: mean entropy of a token's clean gates, in nats.
    `global_entropy`: entropy H of the mean clean gate, in nats. `effective_experts`: exp(H), from 1 to E. `top_gate`:
    5, 50 and 95 % quantiles of the tokens' largest gate, with noise and before renormalisation, as BPR sees it.
    """

    assignments: Int[Tensor, ""]
    success_rate: Float[Tensor, ""]
    load: Float[Tensor, "E"]
    kept_load: Float[Tensor, "E"]
    load_cv: Float[Tensor, ""]
    top_share: Float[Tensor, ""]
    dead_experts: Int[Tensor, ""]
    own_experts: Int[Tensor, ""]
    local_entropy: Float[Tensor, ""]
    global_entropy: Float[Tensor, ""]
    effective_experts: Float[Tensor, ""]
    top_gate: Float[Tensor, "3"]


def entropy(log_probs: Float[Tensor, "... E"]) -> Float[Tensor, "..."]:
    """-sum p ln p in nats, from log-probabilities, with 0 ln 0 = 0."""
    probs = log_probs.exp()
    return -(probs * log_probs.masked_fill(probs == 0, 0.0)).sum(-1)


@torch.no_grad()
def modality_statistics(routed: RouterOutput, modality: int) -> ModalityStatistics:
    """Waits for the device (the quantiles count tokens): for steps that are recorded, not for every one."""
    weight = routed.weight_of(modality)
    count = weight.sum()
    chosen, kept = _per_expert(routed, weight[:, None]), _per_expert(routed, weight[:, None] * routed.kept)
    assignments = chosen.sum()
    load, kept_load = chosen / assignments, kept / assignments
    everybody = _per_expert(routed, routed.weight_of(None)[:, None])
    mean_gate = (weight[:, None] * routed.log_probs.exp()).sum(0) / count
    global_entropy = entropy(mean_gate.log())
    return ModalityStatistics(
        assignments=assignments.long(),
        success_rate=kept.sum() / assignments,
        load=load,
        kept_load=kept_load,
        load_cv=load.std(unbiased=False) / load.mean(),
        top_share=chosen.max() / count,
        dead_experts=(chosen == 0).sum(),
        own_experts=((chosen > OWN_MAJORITY * everybody) & (load > OWN_SHARE)).sum(),
        local_entropy=(weight * entropy(routed.log_probs)).sum() / count,
        global_entropy=global_entropy,
        effective_experts=global_entropy.exp(),
        top_gate=_quantiles(routed.gates.amax(-1)[weight > 0]),
    )


def _per_expert(routed: RouterOutput, weight: Float[Tensor, "T K"] | Float[Tensor, "T 1"]) -> Float[Tensor, "E"]:
    """Assignments per expert, each counted with its weight."""
    total = torch.zeros(routed.num_experts, dtype=weight.dtype, device=weight.device)
    return total.index_add(0, routed.expert_index.reshape(-1), weight.expand_as(routed.expert_index).reshape(-1))


def _quantiles(x: Float[Tensor, "n"]) -> Float[Tensor, "3"]:
    if len(x) == 0:
        return x.new_full((len(QUANTILES),), math.nan)
    ordered = x.sort().values  # torch.quantile refuses more than 16 million values
    return torch.stack([ordered[round(q * (len(x) - 1))] for q in QUANTILES])
