"""Slots of experts: how many there are, which tokens get them, and how tokens travel to them and back.

Everything is index based. One stable sort of all (token, choice) assignments by (expert, group, choice, priority)
numbers the slots; no [T, E, C] mask is ever built. On an accelerator, under torch.compile and with several processes
every shape follows from shapes, so nothing waits for the device; one process on a CPU leaves out slots that no expert
fills (`trimmed_capacity`).
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limoe.parallel.collectives import world_size
from limoe.routing.gathers import rows_of_tokens, tokens_of_rows
from limoe.types import BUFFERS, SORTED, Dispatcher, ExpertTokens


def expert_capacity(
    num_assignments: int, *, num_experts: int, capacity_factor: float, multiple_of: int = 4, rounding: str = "ceil"
) -> int:
    """Slots of one expert in one group: assignments * factor / experts, rounded, at least 1, then up to a multiple.

    `num_assignments` counts tokens of a group times K. The order of the float operations is the reference's (vmoe), and
    so is "round" (half to even); unlike here, the reference raises where the result is 0.
    """
    unrounded = num_assignments * capacity_factor / num_experts
    rounded = round(unrounded) if rounding == "round" else math.ceil(unrounded)
    slots = max(1, rounded)
    return -(-slots // multiple_of) * multiple_of  # up to a multiple


def descending_key(score: Float[Tensor, "T"]) -> Int[Tensor, "T"]:
    """Integers in [0, 2^32) that sort ascending exactly as `score`, read as float32, sorts descending.

    The bits of a positive float, read as an integer, grow with the float. Those of a negative one grow as it falls, so
    all but its sign bit are inverted.
    """
    # + 0.0 makes -0.0 and 0.0 equal
    score = score.detach().float() + 0.0
    bits = score.view(torch.int32).long()
    ascending = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return 0x7FFFFFFF - ascending


class SlotAssignment(NamedTuple):
    """Which slot of which expert every (token, choice) assignment has."""

    expert_index: Int[Tensor, "T K"]
    group: Int[Tensor, "T"]
    slot: Int[Tensor, "T K"]  # number of assignments to the same expert and group that come before this one
    kept: Bool[Tensor, "T K"]  # False: dropped, since the slot is not below the capacity, or padding
    demand: Int[Tensor, "E G"]  # assignments before drops, padding left out


def assign_slots(
    expert_index: Int[Tensor, "T K"],
    *,
    score: Float[Tensor, "T"],
    group: Int[Tensor, "T"],
    valid: Bool[Tensor, "T"],
    num_experts: int,
    num_groups: int,
    capacity: int | None,
) -> SlotAssignment:
    """Number the slots: first choices before second ones, within a choice higher score first, ties by token position.

    Tokens with `valid=False` get no slot. `capacity=None` drops no other token.
    """
    num_tokens, k = expert_index.shape
    num_buckets = num_experts * num_groups
    device = expert_index.device

    # [K * T] bucket (expert, group) of every assignment, choice by choice; padding goes to one more bucket at the end
    bucket = expert_index * num_groups + group[:, None]
    bucket = bucket.masked_fill(~valid[:, None], num_buckets)
    bucket = bucket.T.reshape(-1)

    # [K * T] sort by one 64-bit key: bucket, choice, descending score
    choice = torch.arange(k, device=device).repeat_interleave(num_tokens, output_size=k * num_tokens)
    key = ((bucket * k + choice) << 32) | descending_key(score).repeat(k)
    order = key.sort(stable=True).indices

    # [E * G + 1] assignments of each bucket, and the place where it begins in the order
    demand = torch.zeros(num_buckets + 1, dtype=torch.long, device=device)
    demand = demand.scatter_add(0, bucket, torch.ones_like(bucket))
    start = demand.cumsum(0) - demand

    # [K * T] slot = place in the order, counted from the start of the bucket; then back from the order
    slot_in_order = torch.arange(k * num_tokens, device=device) - start[bucket[order]]
    slot = torch.empty_like(slot_in_order).scatter(0, order, slot_in_order)
    slot = slot.view(k, num_tokens).T

    kept = valid[:, None].expand_as(expert_index)
    if capacity is not None:
        kept = kept & (slot < capacity)
    demand = demand[:-1].view(num_experts, num_groups)
    return SlotAssignment(expert_index, group, slot, kept, demand)


class SlotDispatcher(Dispatcher):
    """Moves the tokens that have a slot, by gathers only.

    BUFFERS (where slots are limited): every expert computes S = G * C rows, also those of empty slots.
    SORTED: the rows of kept assignments alone, by expert, group and slot. There are as many rows as there could ever
    be, so that their number depends on shapes alone (but for `trimmed_capacity`).

    Args:
        assignment: which token has which slot.
        gate: weight of each choice when the tokens come back.
        capacity: C; None = no limit, and so no buffers.
    """

    def __init__(self, assignment: SlotAssignment, *, gate: Float[Tensor, "T K"], capacity: int | None) -> None:
        self.assignment = assignment
        self.gate = gate
        self._row_indexes: dict[str, RowIndex] = {}
        self.num_experts, self.num_groups = assignment.demand.shape
        num_assignments = assignment.expert_index.numel()
        if capacity is None:
            self.capacity = None
            self.num_rows = {SORTED: num_assignments}
            return
        self.capacity = trimmed_capacity(assignment.demand, capacity)
        # an empty row repeats some token, so without tokens there can be no rows
        slots = self.capacity if num_assignments > 0 else 0
        num_buffer_rows = self.num_experts * self.num_groups * slots
        self.num_rows = {BUFFERS: num_buffer_rows, SORTED: min(num_assignments, num_buffer_rows)}

    def dispatch(self, x: Float[Tensor, "T D"], layout: str) -> ExpertTokens:
        index = self.row_index(layout)
        rows = rows_of_tokens(x, token=index.token, row=index.row, kept=self.assignment.kept)
        if layout == BUFFERS:
            slots = len(rows) // self.num_experts
            return ExpertTokens(rows.view(self.num_experts, slots, x.shape[-1]))
        return ExpertTokens(rows, self._offsets())

    def combine(self, expert_tokens: ExpertTokens) -> Float[Tensor, "T D"]:
        rows, offsets = expert_tokens
        layout = BUFFERS if offsets is None else SORTED
        if layout == BUFFERS:
            rows = rows.flatten(0, 1)
        index = self.row_index(layout)
        return tokens_of_rows(
            rows,
            self.gate * self.assignment.kept,
            row=index.row,
            token=index.token,
            assignment=index.assignment,
            filled=index.filled,
        )

    def row_index(self, layout: str) -> "RowIndex":
        """Which row of a layout holds which assignment; computed once, when it is first asked for."""
        if layout not in self._row_indexes:
            # [E, G] rows of each bucket, then the row where it begins
            rows = self._kept_per_bucket()
            if layout == BUFFERS:
                assert self.capacity is not None
                rows = torch.full_like(rows, self.capacity)
            first_row = (rows.flatten().cumsum(0) - rows.flatten()).view_as(rows)
            num_rows = self.num_rows[layout]
            self._row_indexes[layout] = build_row_index(self.assignment, first_row=first_row, num_rows=num_rows)
        return self._row_indexes[layout]

    def _kept_per_bucket(self) -> Int[Tensor, "E G"]:
        demand = self.assignment.demand
        return demand if self.capacity is None else demand.clamp_max(self.capacity)

    def _offsets(self) -> Int[Tensor, "E"]:
        """Where the sorted rows of each expert end.

        Row 0 always belongs to an expert, even where no token has a slot, since dropped tokens read it with weight 0.
        """
        kept_per_expert = self._kept_per_bucket().sum(1)
        ends = kept_per_expert.cumsum(0)
        at_least = min(1, self.num_rows[SORTED])
        last = ends[-1:].clamp_min(at_least)
        return torch.cat([ends[:-1], last]).int()


def trimmed_capacity(demand: Int[Tensor, "E G"], capacity: int) -> int:
    """The capacity, or on a CPU what the fullest expert needs of it: empty slots cost time there, and looking is free.

    With several processes the capacity stays a pure function of shapes, since their buffers may meet.
    """
    if demand.device.type != "cpu" or torch.compiler.is_compiling() or world_size() > 1:
        return capacity
    if demand.numel() == 0:
        return capacity
    fullest = int(demand.max())
    return max(1, min(capacity, fullest))


class RowIndex(NamedTuple):
    """One layout of the rows, in both directions."""

    row: Int[Tensor, "T K"]  # the row of each assignment; 0 for dropped ones
    token: Int[Tensor, "N"]  # the token of each row; some token for empty ones
    assignment: Int[Tensor, "N"]  # number of the assignment of each row, choice * T + token
    filled: Bool[Tensor, "N"]  # False: no assignment has this row


def build_row_index(assignment: SlotAssignment, *, first_row: Int[Tensor, "E G"], num_rows: int) -> RowIndex:
    """The layout in which the slots of each expert and group begin at `first_row`."""
    num_tokens, k = assignment.expert_index.shape
    device = assignment.slot.device

    # [T, K] the row of every assignment
    row = first_row[assignment.expert_index, assignment.group[:, None]] + assignment.slot

    # [N] the assignment of every row; dropped ones are written to one row more, which is cut off; -1 = empty
    target = row.masked_fill(~assignment.kept, num_rows).T.reshape(-1)
    number = torch.arange(k * num_tokens, device=device)
    of_row = torch.full((num_rows + 1,), -1, dtype=torch.long, device=device)
    of_row = of_row.scatter(0, target, number)[:num_rows]
    filled = of_row >= 0
    of_row = of_row.clamp_min(0)

    token = of_row % max(num_tokens, 1)
    row = row.masked_fill(~assignment.kept, 0)
    return RowIndex(row, token, of_row, filled)
