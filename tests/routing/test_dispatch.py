"""Slots and the way to an expert and back, against nested loops."""

from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limoe.models.experts import Experts
from limoe.routing.dispatch import assign_slots, descending_key, expert_capacity
from limoe.types import BUFFERS, SORTED, Dispatcher
from tests.helpers import oracle
from tests.helpers.builders import slot_dispatcher

FAST = settings(max_examples=60, deadline=None, derandomize=True, database=None)
GRID = st.sampled_from([0.0, -0.0, 0.125, 0.25, 0.25, 0.5, 0.5000001, 1.0])  # ties, also of 0 and -0


@dataclass
class Case:
    """One routing problem: T tokens with K distinct experts each."""

    expert_index: list[list[int]]
    gate: list[list[float]]
    score: list[float]
    group: list[int]
    valid: list[bool]
    num_experts: int
    num_groups: int
    capacity: int

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {
            "score": torch.tensor(self.score, dtype=torch.float64),
            "group": torch.tensor(self.group),
            "valid": torch.tensor(self.valid),
        }

    @property
    def sizes(self) -> dict[str, int]:
        return {"num_experts": self.num_experts, "num_groups": self.num_groups}

    def slots(self, capacity: int | None) -> list[list[int | None]]:
        return oracle.slots(self.expert_index, score=self.score, group=self.group, valid=self.valid, capacity=capacity)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    num_tokens, num_experts = draw(st.integers(1, 14)), draw(st.integers(1, 5))
    k = draw(st.integers(1, min(3, num_experts)))
    num_groups = draw(st.integers(1, 3))

    def per_token(value: st.SearchStrategy) -> list:
        return draw(st.lists(value, min_size=num_tokens, max_size=num_tokens))

    return Case(
        expert_index=[p[:k] for p in per_token(st.permutations(range(num_experts)))],
        gate=per_token(st.lists(GRID, min_size=k, max_size=k)),
        score=per_token(GRID),
        group=per_token(st.integers(0, num_groups - 1)),  # some groups are incomplete or empty
        valid=per_token(st.sampled_from([True, True, True, False])),
        num_experts=num_experts,
        num_groups=num_groups,
        capacity=draw(st.integers(1, num_tokens + 2)),
    )


def run(case: Case, capacity: int | None, backend: str = "auto") -> tuple[Tensor, Tensor, list[Tensor]]:
    """Output, kept mask and gradients (x, gate, expert parameters) of limoe's dispatch in float64."""
    torch.manual_seed(len(case.score))
    x, gate, experts, cotangent = leaves(case)
    index = torch.tensor(case.expert_index)
    dispatcher, kept = slot_dispatcher(index, gate=gate, capacity=capacity, **case.tensors, **case.sizes)
    experts.expert_backend = backend
    y = through_experts(dispatcher, x, experts)
    return y, kept, list(torch.autograd.grad((y * cotangent).sum(), [x, gate, *experts.parameters()]))


def through_experts(dispatcher: Dispatcher, x: Tensor, experts: Experts) -> Tensor:
    buffers = dispatcher.dispatch(x, experts.select_layout(dispatcher))
    return dispatcher.combine(experts(buffers))


def run_oracle(case: Case, capacity: int | None) -> tuple[Tensor, Tensor, list[Tensor]]:
    torch.manual_seed(len(case.score))
    x, gate, experts, cotangent = leaves(case)
    slot = case.slots(capacity)
    parameters = list(experts.parameters())
    y = oracle.moe_layer(x, gate=gate, expert_index=case.expert_index, slot=slot, experts=parameters)
    loss = (y * cotangent).sum()
    inputs = [x, gate, *parameters]
    found = torch.autograd.grad(loss, inputs, allow_unused=True) if loss.requires_grad else [None] * len(inputs)
    gradients = [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]
    return y, torch.tensor([[s is not None for s in row] for row in slot]), gradients


def leaves(case: Case) -> tuple[Tensor, Tensor, Experts, Tensor]:
    experts = Experts(3, hidden_dim=4, num_experts=case.num_experts, expert_init="independent").double()
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(len(case.score), 3, dtype=torch.float64, requires_grad=True)
    gate = torch.tensor(case.gate, dtype=torch.float64, requires_grad=True)
    return x, gate, experts, torch.randn(len(case.score), 3, dtype=torch.float64)


def assert_equal_runs(actual: tuple, expected: tuple) -> None:
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-10, atol=1e-12)
    assert actual[1].tolist() == expected[1].tolist()
    for a, e in zip(actual[2], expected[2], strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", ["padded", "loop"])
@FAST
@given(cases())
def test_slots_values_and_gradients_equal_nested_loops(backend: str, case: Case) -> None:
    assert_equal_runs(run(case, case.capacity, backend), run_oracle(case, case.capacity))


@pytest.mark.parametrize("backend", ["padded", "loop"])
@FAST
@given(cases())
def test_without_limit_values_and_gradients_equal_nested_loops(backend: str, case: Case) -> None:
    assert_equal_runs(run(case, None, backend), run_oracle(case, None))


@FAST
@given(cases())
def test_no_limit_equals_room_for_all(case: Case) -> None:
    roomy = len(case.score)
    assert_equal_runs(run(case, None), run(case, roomy))


@FAST
@given(cases())
def test_packed_rows_are_the_kept_tokens_by_expert_group_and_slot(case: Case) -> None:
    index, gate = torch.tensor(case.expert_index), torch.tensor(case.gate)
    dispatcher, _ = slot_dispatcher(index, gate=gate, capacity=case.capacity, **case.tensors, **case.sizes)
    rows, offsets = dispatcher.dispatch(torch.arange(float(len(index)))[:, None], SORTED)
    slot = case.slots(case.capacity)
    places = sorted(
        (expert, case.group[token], slot[token][choice], token)
        for token, experts in enumerate(case.expert_index)
        for choice, expert in enumerate(experts)
        if slot[token][choice] is not None
    )
    assert rows[: len(places), 0].tolist() == [p[3] for p in places]
    ends = [sum(p[0] <= expert for p in places) for expert in range(case.num_experts)]
    assert offsets is not None
    assert offsets.tolist() == [*ends[:-1], max(ends[-1], 1)]  # row 0 belongs to an expert even if no token is kept
    fullest = max(Counter(p[:2] for p in places).values(), default=1)
    assert dispatcher.capacity == fullest  # on a CPU no slots are computed that even the fullest expert leaves empty
    assert dispatcher.num_rows[SORTED] == len(rows) == min(index.numel(), case.num_experts * case.num_groups * fullest)


@FAST
@given(cases())
def test_rules_of_slots(case: Case) -> None:
    index = torch.tensor(case.expert_index)
    assignment = assign_slots(index, capacity=case.capacity, **case.tensors, **case.sizes)
    kept = assignment.kept
    expected = case.slots(None)
    held = set()
    wanted = [[0] * case.num_groups for _ in range(case.num_experts)]
    for token, experts in enumerate(case.expert_index):
        for choice, expert in enumerate(experts):
            if not case.valid[token]:
                assert not kept[token, choice]  # padding takes no slot
                continue
            assert assignment.slot[token, choice] == expected[token][choice]
            wanted[expert][case.group[token]] += 1
            if kept[token, choice]:
                place = (expert, case.group[token], int(assignment.slot[token, choice]))
                assert place not in held and place[2] < case.capacity  # one assignment per slot
                held.add(place)
    assert assignment.demand.tolist() == wanted
    for expert in range(case.num_experts):
        for group in range(case.num_groups):
            lowest_dropped = min(
                (c for t, c in assignments(case, expert, group) if not kept[t, c]), default=len(index[0])
            )
            highest_kept = max((c for t, c in assignments(case, expert, group) if kept[t, c]), default=0)
            assert highest_kept <= lowest_dropped  # a later choice never displaces an earlier one


def assignments(case: Case, expert: int, group: int) -> list[tuple[int, int]]:
    return [
        (token, experts.index(expert))
        for token, experts in enumerate(case.expert_index)
        if expert in experts and case.valid[token] and case.group[token] == group
    ]


@FAST
@given(cases())
def test_no_token_takes_two_slots_of_one_expert(case: Case) -> None:
    index, gate = torch.tensor(case.expert_index), torch.tensor(case.gate)
    dispatcher, kept = slot_dispatcher(index, gate=gate, capacity=case.capacity, **case.tensors, **case.sizes)
    number = torch.arange(1.0, len(case.score) + 1)[:, None]  # token t carries the number t + 1
    rows = dispatcher.dispatch(number, BUFFERS).tokens[..., 0]
    held = dispatcher.row_index(BUFFERS).row[kept]
    assert len(held.unique()) == len(held)
    assert torch.equal(rows.reshape(-1)[held], (kept.nonzero()[:, 0] + 1).float())
    for expert in range(case.num_experts):
        served = [
            t for t, experts in enumerate(case.expert_index) if expert in experts and kept[t, experts.index(expert)]
        ]
        assert len(served) == len(set(served))


@pytest.mark.parametrize("capacity", [None, 1, 4])
@pytest.mark.parametrize("backend", ["padded", "loop"])
def test_only_padding_gives_zeros_and_zero_gradients(capacity: int | None, backend: str) -> None:
    case = Case([[0, 1], [1, 0]], [[0.5, 0.25]] * 2, [0.5] * 2, [0, 0], [False] * 2, 2, 1, 1)
    y, kept, gradients = run(case, capacity, backend)
    assert not y.any() and not kept.any()
    assert not any(g.any() or g.isnan().any() for g in gradients)


def test_empty_slots_give_experts_no_gradient() -> None:
    """One token, two experts with four slots each: expert 1 computes four rows that are never read."""
    case = Case([[0]], [[1.0]], [1.0], [0], [True], 2, 1, 4)
    _, _, (_, _, *experts) = run(case, 4)
    assert all(p[0].any() and not p[1].any() for p in experts)


def test_without_limit_experts_compute_exactly_the_wanted_rows() -> None:
    """Experts 2, 0, 2, padding, 0, 2: expert 0 gets tokens 4, 1 (score order), expert 1 none, expert 2 5, 0, 2."""
    index = torch.tensor([[2], [0], [2], [1], [0], [2]])
    dispatcher, kept = slot_dispatcher(
        index,
        gate=torch.ones(6, 1),
        score=torch.tensor([0.5, 0.1, 0.5, 0.9, 0.2, 0.7]),
        group=torch.zeros(6, dtype=torch.long),
        valid=torch.tensor([True, True, True, False, True, True]),
        num_experts=3,
        num_groups=1,
        capacity=None,
    )
    assert dispatcher.num_rows == {SORTED: 6}
    rows, offsets = dispatcher.dispatch(torch.arange(6.0)[:, None], SORTED)
    assert offsets is not None and offsets.tolist() == [2, 2, 5]
    assert rows[:5, 0].tolist() == [4, 1, 5, 0, 2]
    assert kept[:, 0].tolist() == [True, True, True, False, True, True]


def test_order_of_many_equal_scores_is_kept() -> None:
    """An unstable sort loses the order of equal keys from about 64 on."""
    n = 1000
    assignment = assign_slots(
        torch.zeros(n, 1, dtype=torch.long),
        score=torch.full((n,), 1 / 3),
        group=torch.zeros(n, dtype=torch.long),
        valid=torch.ones(n, dtype=torch.bool),
        num_experts=1,
        num_groups=1,
        capacity=None,
    )
    assert assignment.slot[:, 0].tolist() == list(range(n))


def test_descending_key_orders_all_of_float32() -> None:
    tiny, huge = 2.0**-149, 3.4028234663852886e38  # smallest subnormal, largest finite
    values = [float("inf"), huge, 1.0000001, 1.0, tiny, 0.0, -tiny, -1.0, -huge, float("-inf")]
    keys = descending_key(torch.tensor(values)).tolist()
    assert keys == sorted(keys) and len(set(keys)) == len(keys)
    assert min(keys) >= 0 and max(keys) < 2**32
    assert descending_key(torch.tensor([0.0])) == descending_key(torch.tensor([-0.0]))


@FAST
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2))
def test_descending_key_agrees_with_comparison(pair: list[float]) -> None:
    a, b = descending_key(torch.tensor(pair)).tolist()
    assert (a < b) == (pair[0] > pair[1]) and (a == b) == (pair[0] == pair[1])


@pytest.mark.parametrize(
    ("tokens", "experts", "slots"),
    [
        (8 * 212, 32, 56),  # 1696 * 1.05 / 32 = 55.65 -> 56, a multiple of 4
        (8 * 65, 32, 20),  # 520 * 1.05 / 32 = 17.06 -> 18 -> 20
        (8 * 212, 8, 224),  # 1696 * 1.05 / 8 = 222.6 -> 223 -> 224
    ],
)
def test_slots_of_the_papers_setting(tokens: int, experts: int, slots: int) -> None:
    assert expert_capacity(tokens, num_experts=experts, capacity_factor=1.05) == slots


def test_capacity_rounding() -> None:
    assert expert_capacity(5, num_experts=16, capacity_factor=1.0) == 4  # ceil(5/16) = 1 -> 4
    assert expert_capacity(5, num_experts=16, capacity_factor=1.0, multiple_of=1) == 1
    assert expert_capacity(1, num_experts=64, capacity_factor=1e-6, multiple_of=1) == 1  # never 0
    # 110 * 1.1 = 121.00000000000001 in floats, so ceil gives 12 where exact arithmetic gives 11: as the reference
    assert expert_capacity(110, num_experts=11, capacity_factor=1.1, multiple_of=1) == 12
