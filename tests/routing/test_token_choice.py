"""The token-choice router, against nested loops."""

import dataclasses
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limoe.errors import ArgumentError
from limoe.routing.priority import bpr, first_come, get_priority, text_first
from limoe.routing.token_choice import TopKRouter, top_k_index
from limoe.training.optim import parameter_groups
from limoe.types import IMAGE, TEXT, PackedTokens, RouterOutput
from tests.helpers import oracle
from tests.helpers.builders import decide, packed_groups, packed_pairs, top_k_router

FAST = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def scores_by_hand(name: str, *, gates: list[list[float]], modality: list[int]) -> list[float]:
    if name == "random":
        torch.manual_seed(7)
        return torch.rand(len(gates), dtype=torch.float64).tolist()
    by_name = {
        "bpr": [max(row) for row in gates],
        "first_come": [0.0] * len(gates),
        "image_first": [float(m == IMAGE) for m in modality],
        "text_first": [float(m == TEXT) for m in modality],
    }
    return by_name[name]


@FAST
@given(
    seed=st.integers(0, 10_000),
    pairs=st.integers(1, 5),
    image_tokens=st.integers(1, 3),
    text_tokens=st.integers(1, 3),
    num_experts=st.integers(1, 4),
    k=st.integers(1, 3),
    pairs_per_group=st.sampled_from([None, 1, 2, 3]),
    factor=st.sampled_from([None, 0.25, 0.5, 1.0, 1.05, 100.0]),
    multiple=st.sampled_from([1, 4]),
    name=st.sampled_from(["bpr", "first_come", "random", "image_first", "text_first"]),
)
def test_decisions_equal_nested_loops(
    seed: int,
    pairs: int,
    image_tokens: int,
    text_tokens: int,
    num_experts: int,
    k: int,
    pairs_per_group: int | None,
    factor: float | None,
    multiple: int,
    name: str,
) -> None:
    """Small whole numbers as tokens and weights, so that gates of different experts and tokens tie exactly."""
    k = min(k, num_experts)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(pairs, text_tokens, generator=generator) < 0.7
    packed = packed_pairs(pairs=pairs, image_tokens=image_tokens, text_tokens=text_tokens, text_mask=mask)
    router = top_k_router(
        2,
        num_experts=num_experts,
        k=k,
        noise_std=0.0,
        capacity_factor=factor,
        capacity_multiple_of=multiple,
        pairs_per_group=pairs_per_group,
        priority=get_priority(name),
    ).double()
    router.weight.data = torch.randint(-1, 2, (num_experts, 2), generator=generator).double()
    x = torch.randint(-1, 2, (len(packed.valid), 2), generator=generator).double()
    torch.manual_seed(7)
    routed = decide(router, x, packed)

    gates = routed.gates.tolist()
    for token, row in enumerate(gates):
        logits = [sum(a * b for a, b in zip(x[token].tolist(), w, strict=True)) for w in router.weight.tolist()]
        assert routed.logits[token].tolist() == logits
        assert row == pytest.approx(oracle.softmax(logits), rel=1e-12)
    chosen = [oracle.top_k(row, k) for row in gates]
    assert routed.expert_index.tolist() == chosen
    assert routed.gate.tolist() == [[row[e] for e in c] for row, c in zip(gates, chosen, strict=True)]

    per_group = min(pairs_per_group or pairs, pairs)
    tokens = per_group * (image_tokens + text_tokens)
    if factor is None:
        capacity = None
    else:
        slots = max(1, math.ceil(tokens * k * factor / num_experts))
        capacity = min(tokens, multiple * math.ceil(slots / multiple))
    assert routed.capacity == capacity
    pair = [p for p in range(pairs) for _ in range(image_tokens)] + [
        p for p in range(pairs) for _ in range(text_tokens)
    ]
    modality = [IMAGE] * (pairs * image_tokens) + [TEXT] * (pairs * text_tokens)
    slot = oracle.slots(
        chosen,
        score=scores_by_hand(name, gates=gates, modality=modality),
        group=[p // per_group for p in pair],
        valid=[True] * (pairs * image_tokens) + mask.flatten().tolist(),
        capacity=capacity,
    )
    assert routed.kept.tolist() == [[s is not None for s in row] for row in slot]


def test_equal_gates_go_to_the_lowest_expert() -> None:
    gates = torch.tensor([[0.25] * 4, [0.1, 0.4, 0.1, 0.4], [0.2, 0.2, 0.5, 0.1]])
    assert top_k_index(gates, 1)[:, 0].tolist() == [0, 1, 2]
    assert top_k_index(gates, 2).tolist() == [[0, 1], [1, 3], [2, 0]]
    assert top_k_index(gates, 4).tolist() == [[0, 1, 2, 3], [1, 3, 0, 2], [2, 0, 1, 3]]
    many = torch.full((9, 512), 1 / 512)  # enough for an unstable sort to show
    assert top_k_index(many, 1).tolist() == [[0]] * 9 and top_k_index(many, 3).tolist() == [[0, 1, 2]] * 9


def ramp_router(**settings: object) -> TopKRouter:
    """D = 1: token value v gives the logits v * (0, 1, 2, 3)."""
    router = top_k_router(1, num_experts=4, **settings)
    router.weight.data = torch.arange(4.0)[:, None]
    return router


@pytest.fixture
def unit_noise(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The router's next normal draw: 4 tokens x 4 experts."""
    draw = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1], [9, 0, 0, 0], [0, 0, 0, -9]])
    monkeypatch.setattr(torch, "randn_like", lambda like: draw.to(like.dtype))
    return draw


def test_noise_is_one_over_e_and_selects_and_weighs(unit_noise: Tensor) -> None:
    routed = decide(ramp_router(), torch.ones(4, 1), packed_groups(groups=1, length=4))
    assert routed.noise_std == 0.25
    assert torch.equal(routed.logits, torch.arange(4.0).expand(4, 4))  # stays clean
    torch.testing.assert_close(routed.noisy_logits, routed.logits + unit_noise / 4)
    # 9/4 > 3 - 0 only if above 3: token 2 keeps expert 3 (2.25 < 3); token 3 moves to expert 2 (3 - 2.25 < 2)
    assert routed.expert_index[:, 0].tolist() == [3, 3, 3, 2]
    torch.testing.assert_close(routed.gates, routed.noisy_logits.softmax(-1))
    torch.testing.assert_close(routed.log_probs, routed.logits.log_softmax(-1))


def test_noise_std_scales_and_is_off_in_evaluation(unit_noise: Tensor) -> None:
    router, x, packed = ramp_router(noise_std=2.0), torch.ones(4, 1), packed_groups(groups=1, length=4)
    torch.testing.assert_close(decide(router, x, packed).noisy_logits - torch.arange(4.0), unit_noise / 2)
    routed = decide(router.eval(), x, packed)
    assert torch.equal(routed.noisy_logits, routed.logits) and routed.noise_std == 0.0
    assert decide(ramp_router(noise_std=0.0), x, packed).noise_std == 0.0


def test_gates_are_softmaxed_before_the_choice_and_not_renormalised() -> None:
    """Token 0: softmax(0, 0, 0, 0): both gates 1/4, not 1/2."""
    routed = decide(ramp_router(k=2, noise_std=0.0), torch.zeros(1, 1), packed_groups(groups=1, length=1))
    assert routed.gate.tolist() == [[0.25, 0.25]] and routed.expert_index.tolist() == [[0, 1]]


def test_renormalised_gates_sum_to_one_and_leave_the_selection_alone() -> None:
    x, packed = torch.linspace(-2, 2, 8)[:, None], packed_groups(groups=1, length=8)
    raw, renormalised = (
        decide(ramp_router(k=2, noise_std=0.0, renormalize_gates=choice), x, packed) for choice in (False, True)
    )
    torch.testing.assert_close(renormalised.gate.sum(1), torch.ones(8))
    assert torch.equal(raw.expert_index, renormalised.expert_index) and torch.equal(raw.gates, renormalised.gates)
    assert torch.equal(raw.kept, renormalised.kept)


@pytest.mark.parametrize(("renormalize", "moves"), [(False, True), (True, False)])
def test_task_gradient_of_the_router_at_k_1(renormalize: bool, moves: bool) -> None:
    router = top_k_router(3, num_experts=4, noise_std=0.0, renormalize_gates=renormalize)
    decide(router, torch.randn(6, 3), packed_groups(groups=1, length=6)).gate.sum().backward()
    assert (router.weight.grad.abs().max() > 1e-6) == moves


def test_a_frozen_router_gets_no_gradient_but_passes_that_of_its_gates_and_losses_on() -> None:
    router = top_k_router(3, num_experts=4, noise_std=0.0, frozen=True)
    x = torch.randn(6, 3, requires_grad=True)
    routed = decide(router, x, packed_groups(groups=1, length=6))
    (routed.gate.sum() + routed.log_probs[:, 0].sum()).backward()
    assert router.weight.grad is None and x.grad is not None and x.grad.abs().max() > 1e-6
    assert parameter_groups(router, weight_decay=0.1) == [
        {"params": [], "weight_decay": 0.1},
        {"params": [], "weight_decay": 0.0},
    ]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_extreme_logits_stay_finite(k: int) -> None:
    router = top_k_router(2, num_experts=4, k=k, noise_std=0.0)
    router.weight.data = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    x = torch.tensor([[1e4, -1e4], [0, 0], [-1e4, 0], [1e4, 1e4]], requires_grad=True)
    routed = decide(router, x, packed_groups(groups=1, length=4))
    assert routed.gates.isfinite().all() and routed.log_probs.isfinite().all()
    # (1e4, -1e4, -1e4, 1e4): experts 0 and 3 share; then all equal; then 1 alone; (1e4, -1e4, 1e4, -1e4): 0 and 2
    assert routed.expert_index[:, 0].tolist() == [0, 0, 1, 0]
    assert routed.gate[:, 0].tolist() == [0.5, 0.25, 1.0, 0.5]
    routed.gate.sum().backward()
    assert x.grad.isfinite().all() and router.weight.grad.isfinite().all()


def test_router_is_float32_under_bfloat16_autocast() -> None:
    router, packed = top_k_router(64, num_experts=8, noise_std=0.0), packed_groups(groups=1, length=32)
    x = torch.randn(32, 64)
    expected = decide(router, x, packed)
    with torch.autocast("cpu", torch.bfloat16):
        routed = decide(router, x, packed)
        half = decide(router, x.bfloat16(), packed)
    for name in ("logits", "noisy_logits", "gates", "gate"):
        assert getattr(routed, name).dtype == getattr(half, name).dtype == torch.float32
        assert torch.equal(getattr(routed, name), getattr(expected, name)), name
    assert torch.equal(half.logits, decide(router, x.bfloat16().float(), packed).logits)


def test_router_in_bfloat16_parameters_still_computes_in_float32() -> None:
    router = top_k_router(64, num_experts=8, noise_std=0.0).bfloat16()
    routed = decide(router, torch.randn(4, 64, dtype=torch.bfloat16), packed_groups(groups=1, length=4))
    assert routed.logits.dtype == routed.gates.dtype == torch.float32
    assert not torch.equal(routed.logits, routed.logits.bfloat16().float())


def test_padding_takes_no_slot_and_count_pad_restores_the_reference() -> None:
    """Six identical texts tokens for 4 slots in batch order, the first two are padding."""
    mask = torch.tensor([[False, False, True, True, True, True]])
    packed = packed_pairs(pairs=1, image_tokens=1, text_tokens=6, text_mask=mask)
    settings = {"noise_std": 0.0, "capacity_factor": 2.0, "priority": first_come}  # ceil(7 * 2 / 4) = 4 slots
    x = torch.tensor([[-1.0]] + [[1.0]] * 6)  # the image wants expert 0, all texts want expert 3
    masked, counted = (
        decide(ramp_router(**settings), x, packed),
        decide(ramp_router(count_pad=True, **settings), x, packed),
    )
    assert masked.capacity == counted.capacity == 4
    assert masked.kept[:, 0].tolist() == [True, False, False, True, True, True, True]
    assert masked.valid.tolist() == [True, False, False, True, True, True, True]
    assert counted.kept[:, 0].tolist() == [True, True, True, True, True, False, False]
    assert counted.valid.all()


def test_capacity_depends_on_shapes_only() -> None:
    router = ramp_router(capacity_factor=1.0, capacity_multiple_of=1)
    for mask in (torch.ones(4, 6, dtype=torch.bool), torch.zeros(4, 6, dtype=torch.bool)):
        packed = packed_pairs(pairs=4, image_tokens=10, text_tokens=6, text_mask=mask)
        assert decide(router, torch.randn(64, 1), packed).capacity == 16


def test_capacity_is_never_above_the_tokens_of_a_group() -> None:
    """A token takes at most one slot of an expert, so more slots than tokens would only be computed in vain."""
    packed = packed_groups(groups=2, length=3)
    routed = decide(ramp_router(capacity_factor=50.0, pairs_per_group=1, k=4), torch.randn(6, 1), packed)
    assert routed.capacity == 3 and routed.kept.all()


def test_groups_do_not_know_each_other() -> None:
    """Five pairs in groups of two: the last group is incomplete and has as many slots as the others."""
    router = top_k_router(
        4, num_experts=2, noise_std=0.0, pairs_per_group=2, capacity_factor=0.5, capacity_multiple_of=1
    )
    x = torch.randn(5, 6, 4)
    whole = decide(router, x.flatten(0, 1), packed_groups(groups=5, length=6))
    assert whole.capacity == 3  # ceil(12 * 0.5 / 2)
    for start in (0, 2):
        alone = decide(router, x[start : start + 2].flatten(0, 1), packed_groups(groups=2, length=6))
        assert torch.equal(alone.kept, whole.kept.view(5, 6, 1)[start : start + 2].flatten(0, 1))
    per_expert = torch.bincount(whole.expert_index[24:, 0], minlength=2)
    assert whole.kept[24:].sum() == per_expert.clamp_max(3).sum()


def test_evaluation_has_its_own_capacity_and_priority() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    packed = packed_pairs(pairs=1, image_tokens=2, text_tokens=2, text_mask=mask)
    settings = {"noise_std": 0.0, "capacity_multiple_of": 1, "capacity_factor": 1.0, "eval_capacity_factor": 2.0}
    x = torch.ones(4, 1)  # every token chooses expert 3; 1 slot in training, 2 in evaluation
    router = ramp_router(priority=first_come, eval_priority=text_first, **settings)
    assert decide(router, x, packed).kept[:, 0].tolist() == [True, False, False, False]
    assert decide(router.eval(), x, packed).kept[:, 0].tolist() == [False, False, True, True]
    same = ramp_router(priority=text_first, **settings).eval()
    assert decide(same, x, packed).kept[:, 0].tolist() == [False, False, True, True]
    unlimited = decide(ramp_router(priority=first_come).eval(), x, packed)
    assert unlimited.capacity is None and unlimited.kept.all()


def test_bpr_gives_slots_to_the_token_with_the_largest_gate_first() -> None:
    """All want expert 3 with growing confidence; one slot."""
    x, packed = torch.tensor([[1.0], [2.0], [4.0], [3.0]]), packed_groups(groups=1, length=4)
    settings = {"noise_std": 0.0, "capacity_multiple_of": 1, "capacity_factor": 1.0}
    assert decide(ramp_router(priority=bpr, **settings), x, packed).kept[:, 0].tolist() == [False, False, True, False]
    assert decide(ramp_router(priority=first_come, **settings), x, packed).kept[:, 0].tolist() == [
        True,
        False,
        False,
        False,
    ]


def route(**settings: object) -> RouterOutput:
    return decide(ramp_router(**settings), torch.randn(4, 1), packed_groups(groups=1, length=4))


def test_router_output_is_frozen() -> None:
    routed = route()
    with pytest.raises(dataclasses.FrozenInstanceError):
        routed.capacity = 1  # type: ignore[misc]


def test_statistics_taken_first_leave_the_losses_their_gradient() -> None:
    router = ramp_router()
    routed: RouterOutput = decide(router, torch.randn(4, 1), packed_groups(groups=1, length=4))
    with torch.no_grad():
        assert routed.log_probs.isfinite().all()
    routed.log_probs[:, 0].sum().backward()
    assert router.weight.grad is not None and router.weight.grad.any()


def test_initial_weights_are_lecun_normal() -> None:
    weight = top_k_router(400, num_experts=64).weight
    assert weight.shape == (64, 400)
    assert weight.std().item() == pytest.approx(400**-0.5, rel=0.02)
    assert weight.abs().max() <= 2.001 * 400**-0.5 / 0.8796  # truncated at 2 sd of the normal before correction


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("k", 0),
        ("k", 5),
        ("noise_std", -1.0),
        ("capacity_factor", 0.0),
        ("capacity_factor", -1.0),
        ("capacity_factor", float("nan")),
        ("eval_capacity_factor", 0.0),
        ("capacity_multiple_of", 0),
        ("pairs_per_group", 0),
    ],
)
def test_bad_settings_name_key_and_value(key: str, value: float) -> None:
    with pytest.raises(ArgumentError, match=rf"{key} must be .* got {value}"):
        partial(top_k_router, 1, num_experts=4)(**{key: value})


def test_streams_split_views() -> None:
    packed: PackedTokens = packed_pairs(pairs=2, image_tokens=3, text_tokens=2)
    x = torch.arange(10.0)[:, None]
    images, texts = packed.split(x)
    assert images[..., 0].tolist() == [[0, 1, 2], [3, 4, 5]] and texts[..., 0].tolist() == [[6, 7], [8, 9]]
    assert packed.pair.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert packed.tokens_per_pair == 5 and packed.num_pairs == 2
