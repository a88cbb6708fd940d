"""Seats: how many an expert has, who gets one, and how tokens move there and back.

Everything is index based. One stable sort of all (token, choice) assignments by (expert, group, choice, priority)
numbers the seats; no [T, E, C] mask is ever built.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limoe.types import DispatchPlan


def expert_capacity(num_assignments: int, *, num_experts: int, capacity_factor: float, multiple_of: int = 4) -> int:
    """Seats of one expert in one group: ceil(assignments * factor / experts), then up to a multiple.

    `num_assignments` counts tokens of a group times K. The order of the float operations is the reference's (vmoe).
    """
    seats = max(1, math.ceil(num_assignments * capacity_factor / num_experts))
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
) -> tuple[DispatchPlan, Bool[Tensor, "T K"]]:
    """Seat the tokens and say how they travel; also which assignments got a seat. `capacity=None` seats everybody."""
    seating = seat_tokens(
        expert_index, score=score, group=group, valid=valid, num_experts=num_experts, num_groups=num_groups
    )
    if capacity is None:
        return SortedPlan(seating, gate=gate, valid=valid), valid[:, None].expand_as(expert_index)
    kept = valid[:, None] & (seating.seat < capacity)
    plan = PaddedPlan(seating, expert_index=expert_index, group=group, kept=kept, gate=gate, capacity=capacity)
    return plan, kept


class PaddedPlan:
    """Every expert computes S = G * C rows. No data-dependent shape, so no host synchronisation.

    Rows of empty seats repeat token 0; `combine` never reads them, so they get no gradient.
    """

    counts: list[int] | None = None

    def __init__(
        self,
        seating: Seating,
        *,
        expert_index: Int[Tensor, "T K"],
        group: Int[Tensor, "T"],
        kept: Bool[Tensor, "T K"],
        gate: Float[Tensor, "T K"],
        capacity: int,
    ) -> None:
        num_tokens = expert_index.shape[0]
        self.num_experts, num_groups = seating.demand.shape
        slot = (expert_index * num_groups + group[:, None]) * capacity + seating.seat
        total = self.num_experts * num_groups * capacity
        token = torch.arange(num_tokens, device=slot.device)[:, None].expand_as(slot)
        holder = torch.zeros(total + 1, dtype=torch.long, device=slot.device)  # one more: where the seatless go
        holder = holder.scatter(0, slot.masked_fill(~kept, total).reshape(-1), token.reshape(-1))
        self.token_of_slot: Int[Tensor, "ES"] = holder[:total]
        self.slot: Int[Tensor, "T K"] = slot.masked_fill(~kept, 0)
        self.weight: Float[Tensor, "T K"] = gate * kept

    def dispatch(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "E S D"]:
        return x.index_select(0, self.token_of_slot).view(self.num_experts, -1, x.shape[-1])

    def combine(self, rows: Float[Tensor, "E S D"]) -> Float[Tensor, "T D"]:
        return _weighted_gather(rows.flatten(0, 1), self.slot, self.weight)


class SortedPlan:
    """Every expert computes exactly the tokens that chose it (no capacity): rows lie sorted by expert.

    Row counts depend on the data, so building the plan waits for the device once.
    """

    def __init__(self, seating: Seating, *, gate: Float[Tensor, "T K"], valid: Bool[Tensor, "T"]) -> None:
        num_tokens, k = gate.shape
        self.counts: list[int] | None = seating.demand.sum(1).tolist()
        self.num_rows = sum(self.counts or ())
        self.token: Int[Tensor, "N"] = seating.order[: self.num_rows] % num_tokens
        rank = torch.empty_like(seating.order)
        rank[seating.order] = torch.arange(k * num_tokens, device=rank.device)
        self.row: Int[Tensor, "T K"] = rank.view(k, num_tokens).T.masked_fill(~valid[:, None], 0)
        self.weight: Float[Tensor, "T K"] = gate * valid[:, None]

    def dispatch(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "N D"]:
        return x.index_select(0, self.token)

    def combine(self, rows: Float[Tensor, "N D"]) -> Float[Tensor, "T D"]:
        if self.num_rows == 0:  # only padding: all zero, still part of the graph
            return rows.sum() + self.weight.sum(-1, keepdim=True).expand(-1, rows.shape[-1])
        return _weighted_gather(rows, self.row, self.weight)


def _weighted_gather(
    rows: Float[Tensor, "N D"], index: Int[Tensor, "T K"], weight: Float[Tensor, "T K"]
) -> Float[Tensor, "T D"]:
    """sum_k weight[t, k] * rows[index[t, k]], a gather on purpose: the order of additions never depends on threads."""
    choices = zip(index.unbind(1), weight.unbind(1), strict=True)
    parts = [rows.index_select(0, i) * w[:, None] for i, w in choices]
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
