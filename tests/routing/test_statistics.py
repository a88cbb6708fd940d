"""Numbers about a router, by hand."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from limoe.routing.statistics import (
    GATE_STEPS,
    QUANTILES,
    RoutingSums,
    entropy,
    modality_statistics,
    routing_sums,
    statistics,
)
from limoe.types import IMAGE, TEXT
from tests.helpers.builders import routed_at_random, router_output, tokens_of
from tests.helpers.ranks import run_two

# three image tokens, two texts and one padding over 4 experts, K = 2
EXPERTS = torch.tensor([[0, 1], [0, 1], [0, 2], [3, 1], [3, 2], [3, 3]])
KEPT = torch.tensor([[True, True], [True, False], [False, False], [True, True], [True, False], [False, False]])
MODALITY = torch.tensor([IMAGE, IMAGE, IMAGE, TEXT, TEXT, TEXT])
VALID = torch.tensor([True] * 5 + [False])
LOGITS = torch.log(
    torch.tensor(
        [
            [0.5, 0.5, 1e-30, 1e-30],
            [0.25, 0.25, 0.25, 0.25],
            [1.0, 1e-30, 1e-30, 1e-30],
            [1e-30, 1e-30, 1e-30, 1.0],
            [1e-30, 1e-30, 0.5, 0.5],
            [1.0, 1e-30, 1e-30, 1e-30],
        ]
    )
)
ROUTED = router_output(LOGITS, modality=MODALITY, valid=VALID, expert_index=EXPERTS, kept=KEPT)


def test_image_numbers_by_hand() -> None:
    found = modality_statistics(ROUTED, IMAGE)
    assert found.assignments.item() == 6
    assert found.success_rate.item() == pytest.approx(3 / 6)
    assert found.load.tolist() == pytest.approx([3 / 6, 2 / 6, 1 / 6, 0])
    assert found.kept_load.tolist() == pytest.approx([2 / 6, 1 / 6, 0, 0])
    assert found.local_entropy.item() == pytest.approx((math.log(2) + math.log(4) + 0) / 3, abs=1e-6)
    mean = [(0.5 + 0.25 + 1) / 3, 0.75 / 3, 0.25 / 3, 0.25 / 3]
    assert found.global_entropy.item() == pytest.approx(-sum(p * math.log(p) for p in mean), abs=1e-6)
    # load in sixths: 3 2 1 0, mean 1.5, deviations 1.5 .5 .5 1.5: variance 5/4, so sqrt(1.25) / 1.5
    assert found.load_cv.item() == pytest.approx(math.sqrt(1.25) / 1.5)
    assert found.dead_experts.item() == 1
    assert found.top_share.item() == 1.0  # all three tokens chose expert 0
    assert found.effective_experts.item() == pytest.approx(math.exp(found.global_entropy.item()))
    # experts 0 to 3 have 3, 3, 2, 2 assignments, of which 3, 2, 1, 0 come from images: 1/2 is no majority
    assert found.own_experts.item() == 2
    # largest gates 1/2, 1/4, 1; ranks round(0.1), round(1), round(1.9)
    assert found.top_gate.tolist() == pytest.approx([0.25, 0.5, 1.0])


def test_text_numbers_leave_padding_out() -> None:
    found = modality_statistics(ROUTED, TEXT)
    assert found.assignments.item() == 4
    assert found.own_experts.item() == 1  # expert 3, with 2 of 2
    assert found.top_gate.tolist() == pytest.approx([0.5, 0.5, 1.0])  # of 1/2 and 1; round(0.5) is 0
    assert found.success_rate.item() == pytest.approx(3 / 4)
    assert found.load.tolist() == pytest.approx([0, 1 / 4, 1 / 4, 2 / 4])
    assert found.local_entropy.item() == pytest.approx(math.log(2) / 2, abs=1e-6)
    assert found.global_entropy.item() == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), abs=1e-6)
    assert found.dead_experts.item() == 1


def test_an_absent_modality_is_nan_not_zero() -> None:
    only_images = router_output(LOGITS[:3])
    found = modality_statistics(only_images, TEXT)
    counts = {name: getattr(found, name).item() for name in ("assignments", "dead_experts", "own_experts")}
    assert counts == {"assignments": 0, "dead_experts": 4, "own_experts": 0}
    for name, value in found._asdict().items():
        assert name in counts or value.isnan().all(), name


def test_an_own_expert_needs_more_than_a_hundredth_of_the_modality() -> None:
    """Texts: 199 on expert 0, one alone on expert 1 (0.5 %); then 99 and one (1 %, not more), then 98 and two."""
    for tokens, alone, own in ((200, 1, 1), (100, 1, 1), (100, 2, 2)):
        logits = torch.zeros(tokens, 3)
        logits[:, 0] = 5.0
        logits[:alone] = torch.tensor([0.0, 5.0, 0.0])
        found = modality_statistics(router_output(logits, modality=torch.full((tokens,), TEXT)), TEXT)
        assert found.own_experts.item() == own


def test_statistics_carry_no_graph_and_change_nothing() -> None:
    logits = LOGITS.clone().requires_grad_()
    routed = router_output(logits, modality=MODALITY)
    assert not any(value.requires_grad for value in modality_statistics(routed, IMAGE))
    assert routed.log_probs.requires_grad


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_saturated_logits_give_finite_numbers(size: float) -> None:
    routed = router_output(torch.eye(4) * size)
    found = modality_statistics(routed, IMAGE)
    assert found.local_entropy.item() == pytest.approx(0 if size > 0 else math.log(3), abs=1e-6)
    assert found.global_entropy.item() == pytest.approx(math.log(4), abs=1e-6)


@pytest.mark.parametrize("tokens", [1, 2, 41, 1000])
def test_quantiles_are_those_of_sorted_gates_rounded_to_a_step(tokens: int) -> None:
    logits = 3 * torch.randn(tokens, 5, generator=torch.Generator().manual_seed(tokens))
    ordered = logits.softmax(-1).amax(-1).sort().values.tolist()
    expected = [round(ordered[round(q * (tokens - 1))] * GATE_STEPS) / GATE_STEPS for q in QUANTILES]
    assert modality_statistics(router_output(logits), IMAGE).top_gate.tolist() == expected


def test_gates_that_are_nan_stand_last() -> None:
    logits = torch.zeros(3, 4)
    logits[0] = math.nan
    found = modality_statistics(router_output(logits, expert_index=torch.zeros(3, 1, dtype=torch.long)), IMAGE).top_gate
    assert found[:2].tolist() == [0.25, 0.25] and found[2].isnan()


def test_sums_of_parts_add_up_to_those_of_the_whole() -> None:
    routing = routed_at_random()
    metric = RoutingSums({layer: routed.num_experts for layer, routed in routing.items()})
    for part in (slice(0, 11), slice(11, 11), slice(11, None)):
        metric.update({layer: tokens_of(routed, part) for layer, routed in routing.items()})
    for layer, sums in metric.compute().items():
        torch.testing.assert_close(sums, routing_sums(routing[layer]), rtol=1e-12, atol=0)


def uneven_sums(rank: int) -> dict[int, Tensor]:
    """The first rank has 11 of 57 tokens, all of them images."""
    part = slice(0, 11) if rank == 0 else slice(11, None)
    routing = {layer: tokens_of(routed, part) for layer, routed in routed_at_random().items()}
    metric = RoutingSums({layer: routed.num_experts for layer, routed in routing.items()})
    metric.update(routing)
    return metric.compute()


def test_two_ranks_with_uneven_tokens_equal_one_process(tmp_path: Path) -> None:
    found = run_two(uneven_sums, tmp_path)
    for layer, routed in routed_at_random().items():
        for modality in (IMAGE, TEXT):
            ours = statistics(found[layer], modality, num_experts=routed.num_experts)
            whole = modality_statistics(routed, modality)
            for name, value in whole._asdict().items():
                torch.testing.assert_close(getattr(ours, name), value, rtol=1e-12, atol=0, msg=f"{layer} {name}")


def test_entropy_of_an_impossible_expert() -> None:
    assert entropy(torch.tensor([0.0, -math.inf])).item() == 0.0
    assert entropy(torch.full((3, 8), 1 / 8).log()).tolist() == pytest.approx([math.log(8)] * 3)
