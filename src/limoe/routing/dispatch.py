"""Seats: how many an expert has, and who gets one.

Everything is index based. One stable sort of all (token, choice) assignments by (expert, group, choice, priority)
numbers the seats; no [T, E, C] mask is ever built.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limoe.routing.plans import Assignments, PaddedPlan, SortedPlan


def expert_capacity(
    num_assignments: int, *, num_experts: int, capacity_factor: float, multiple_of: int = 4, rounding: str = "ceil"
) -> int:
    """Seats of one expert in one group: assignments * factor / experts, rounded, at least 1, then up to a multiple.

    `num_assignments` counts tokens of a group times K. The order of the float operations is the reference's (vmoe), and
    so is "round" (half to even); only that the reference raises where it gives 0.
    """
    share = num_assignments * capacity_factor / num_experts
    seats = max(1, round(share) if rounding == "round" else math.ceil(share))
    return -(-seats // multiple_of) * multiple_of


def descending_key(score: Float[Tensor, "T"]) -> Int[Tensor, "T"]:
    """Integers in [0, 2^32) that sort ascending exactly as `score`, read as float32, sorts descending."""
    bits = (score.detach().float() + 0.0).view(torch.int32).long()  # + 0.0 makes -0.0 and 0.0 equal
    ascending = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return 0x7FFFFFFF - ascending


class Seating(NamedTuple):
    """Where every assignment sits. `order` lists assignments (choice * T + token) by expert, group and seat."""

    order: Int[Tensor, "KT"]
    seat: Int[Tensor, "T K"]  # number of assignments to the same expert and group that sit before this one
    demand: Int[Tensor, "E G"]  # assignments that want each expert, before drops; padding left out


def seat_tokens(
    expert_index: Int[Tensor, "T K"],
    *,
    score: Float[Tensor, "T"],
    group: Int[Tensor, "T"],
    valid: Bool[Tensor, "T"],
    num_experts: int,
    num_groups: int,
) -> Seating:
    """Number the seats: first choices before second ones, within a choice higher score first, ties by token position.

    Tokens with `valid=False` are sorted behind everybody and take no seat.
    """
    num_tokens, k = expert_index.shape
    buckets = num_experts * num_groups
    bucket = expert_index * num_groups + group[:, None]
    bucket = bucket.masked_fill(~valid[:, None], buckets).T.reshape(-1)  # choice-major
    choice = torch.arange(k, device=bucket.device).repeat_interleave(num_tokens, output_size=k * num_tokens)
    key = ((bucket * k + choice) << 32) | descending_key(score).repeat(k)
    order = key.sort(stable=True).indices
    demand = torch.zeros(buckets + 1, dtype=torch.long, device=bucket.device)
    demand = demand.scatter_add(0, bucket, torch.ones_like(bucket))
    first = demand.cumsum(0) - demand
    position = torch.arange(k * num_tokens, device=bucket.device) - first[bucket[order]]
    seat = torch.empty_like(position).scatter(0, order, position)
    return Seating(order, seat.view(k, num_tokens).T, demand[:-1].view(num_experts, num_groups))


def plan_dispatch(
    expert_index: Int[Tensor, "T K"],
    *,
    gate: Float[Tensor, "T K"],
    score: Float[Tensor, "T"],
    group: Int[Tensor, "T"],
    valid: Bool[Tensor, "T"],
    num_experts: int,
    num_groups: int,
    capacity: int | None,
) -> tuple[PaddedPlan | SortedPlan, Bool[Tensor, "T K"]]:
    """Seat the tokens and say how they travel; also which assignments got a seat. `capacity=None` seats everybody."""
    seating = seat_tokens(
        expert_index, score=score, group=group, valid=valid, num_experts=num_experts, num_groups=num_groups
    )
    kept = valid[:, None].expand_as(expert_index)
    if capacity is not None:
        kept = kept & (seating.seat < capacity)
    assignments = Assignments(expert_index, group, seat=seating.seat, kept=kept, gate=gate, demand=seating.demand)
    return SortedPlan(assignments) if capacity is None else PaddedPlan(assignments, capacity=capacity), kept
