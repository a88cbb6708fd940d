"""Routing statistics per layer and modality, as functions of sums; padding never counts."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torchmetrics import Metric

from limoe.types import MODALITIES, RouterOutput

QUANTILES = (0.05, 0.5, 0.95)  # of the top gate
GATE_STEPS = 1024  # to which these are rounded: gates are counted by step, since counts of ranks add up
OWN_MAJORITY = 0.5  # see `own_experts`, as the next
OWN_SHARE = 0.01


class ModalityStatistics(NamedTuple):
    """Routing of one modality in one layer. Where it is absent the counts are 0 (dead experts E) and the rest NaN.

    `assignments`: tokens times K. `success_rate`: share of them that got a slot (the paper's health indicator).
    `load`: their share per expert before drops, sums to 1. `kept_load`: what is left of it after drops, sums to the
    success rate. `load_cv`: standard deviation / mean of `load` over experts. `top_share`: share of the tokens that
    chose the most chosen one. `dead_experts`: experts that no token of this modality chose. `own_experts`: experts with
    more than 1 % of the modality's assignments that get more than half of theirs from it, before drops (for text the
    paper's "text experts"; the limits are ours). `local_entropy`: mean entropy of a token's clean gates, in nats.
    `global_entropy`: entropy H of the mean clean gate, in nats. `effective_experts`: exp(H), from 1 to E. `top_gate`:
    5, 50 and 95 % quantiles of the tokens' largest gate, with noise and before renormalisation, as BPR sees it, rounded
    to 1/1024.
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
def routing_sums(routed: RouterOutput) -> Float64[Tensor, "2 F"]:
    """Sums over the real tokens of each modality, from which all statistics of a layer follow.

    They add up over batches and ranks. A row holds F = 3 E + 1028 of them: tokens, entropy of their clean gates, [E]
    assignments before drops, [E] after drops, [E] clean gates, and the number of tokens whose largest gate is i / 1024,
    rounded, for i = 0 ... 1024 (last: NaN). In float64, which counts the tokens of any number of ranks exactly.
    """
    top_gate = routed.gates.amax(-1)
    step = torch.where(top_gate.isnan(), GATE_STEPS + 1, (top_gate * GATE_STEPS).round()).long()
    entropies = entropy(routed.log_probs).double()
    clean_gates = routed.log_probs.exp().double()
    rows = []
    for modality in range(len(MODALITIES)):
        weight = routed.token_mask(modality).double()
        assignments = weight[:, None].expand_as(routed.expert_index)
        parts = [
            weight.sum()[None],
            (weight @ entropies)[None],
            _histogram(routed.expert_index, assignments, size=routed.num_experts),
            _histogram(routed.expert_index, assignments * routed.kept, size=routed.num_experts),
            weight @ clean_gates,
            _histogram(step, weight, size=GATE_STEPS + 2),
        ]
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def _sizes(num_experts: int) -> list[int]:
    """Lengths of the parts of a row of `routing_sums`."""
    return [1, 1, num_experts, num_experts, num_experts, GATE_STEPS + 2]


def statistics(sums: Float64[Tensor, "2 F"], modality: int, *, num_experts: int) -> ModalityStatistics:
    """Statistics of one layer from its `routing_sums`."""
    parts = sums.split(_sizes(num_experts), dim=1)
    count, entropies, chosen, kept, gates, top_gates = (part[modality] for part in parts)
    chosen_by_all = parts[2].sum(0)  # E, over both modalities
    assignments = chosen.sum()
    load = chosen / assignments
    global_entropy = entropy((gates / count).log())
    return ModalityStatistics(
        assignments=assignments.long(),
        success_rate=kept.sum() / assignments,
        load=load,
        kept_load=kept / assignments,
        load_cv=load.std(unbiased=False) / load.mean(),
        top_share=chosen.max() / count[0],
        dead_experts=(chosen == 0).sum(),
        own_experts=((chosen > OWN_MAJORITY * chosen_by_all) & (load > OWN_SHARE)).sum(),
        local_entropy=(entropies / count)[0],
        global_entropy=global_entropy,
        effective_experts=global_entropy.exp(),
        top_gate=_quantiles(top_gates),
    )


def modality_statistics(routed: RouterOutput, modality: int) -> ModalityStatistics:
    """Statistics of one layer, of the tokens of this process."""
    return statistics(routing_sums(routed), modality, num_experts=routed.num_experts)


class RoutingSums(Metric):
    """The `routing_sums` of all sparse layers over all ranks, as one state, so that all layers travel together.

    `update` takes what the routers of a batch decided, by layer, and asks no other rank; `compute` gathers, and gives
    the sums by layer.

    Args:
        num_experts: E of each sparse layer, by its number.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, num_experts: Mapping[int, int]) -> None:
        super().__init__()
        self.sizes = {layer: sum(_sizes(experts)) for layer, experts in num_experts.items()}
        shape = (len(MODALITIES), sum(self.sizes.values()))
        self.add_state("sums", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, routing: Mapping[int, RouterOutput]) -> None:
        of_layers = [routing_sums(routing[layer]) for layer in self.sizes]
        self.sums += torch.cat(of_layers, dim=1)

    def compute(self) -> dict[int, Tensor]:
        layers = self.sums.split(list(self.sizes.values()), dim=1)
        return dict(zip(self.sizes, layers, strict=True))


def _histogram(index: Int[Tensor, "*n"], weight: Float64[Tensor, "*n"], *, size: int) -> Float64[Tensor, "size"]:
    """The sum of the weights at each index."""
    return weight.new_zeros(size).index_add(0, index.reshape(-1), weight.reshape(-1))


def _quantiles(counts: Float64[Tensor, "steps"]) -> Float64[Tensor, "3"]:
    """Quantiles of the gates counted by step; NaN without any."""
    total = counts.sum()
    gates = torch.arange(len(counts), dtype=counts.dtype, device=counts.device) / GATE_STEPS
    gates[-1] = math.nan

    # the rank of each quantile among the sorted tokens, then the step in which that token lies
    rank = (counts.new_tensor(QUANTILES) * (total - 1)).round()
    step = torch.searchsorted(counts.cumsum(0), rank, right=True)
    found = gates[step.clamp_max(len(gates) - 1)]
    return found.where(total > 0, math.nan)
