"""Slots, and when a collapse of text would show in them."""

from typing import Any

import pytest

from limoe.accounting.anatomy import anatomy
from limoe.accounting.capacity import capacity, collapse
from limoe.accounting.summary import summary
from tests.helpers.configs import built


def of(*overrides: str, pairs: int = 64) -> tuple[dict[str, Any], dict[str, Any]]:
    part = next(part for part in anatomy(built(*overrides)).towers if part.sparse and "text" in part.lengths)
    return capacity(part, pairs=pairs), collapse(part, pairs=pairs)


@pytest.mark.parametrize(
    ("model", "experts", "slots", "needs"),
    [
        # a group of 8 pairs, factor 1.05, rounded up to a multiple of 4
        ("limoe_b32", 8, 72, 128 / 72),  # 520 tokens: 68.25 slots
        ("limoe_b32", 32, 20, 128 / 20),  # 17.06
        ("limoe_b16", 8, 224, 128 / 224),  # 1696 tokens: 222.6
        ("limoe_b16", 32, 56, 128 / 56),  # 55.65
        ("limoe_h14", 32, 72, 128 / 72),  # 2176 tokens: 71.4
    ],
)
def test_slots_and_what_text_needs(model: str, experts: int, slots: int, needs: float) -> None:
    found, text = of(f"model={model}", f"model.num_experts={experts}")
    assert found["slots_per_expert"] == slots and found["pairs_per_group"] == 8
    assert found["effective_capacity_factor"] == pytest.approx(slots * experts / found["tokens_per_group"])
    assert text["experts_text_needs"] == pytest.approx(needs)
    assert text["best_text_success"] == pytest.approx(min(1, 1 / needs))
    assert text["visible"] == (needs > 1)
    assert ("invisible" in text["says"]) == (needs <= 1)


def test_as_the_paper_counts_without_rounding() -> None:
    """E n_t / ((n_i + n_t) C): 32 x 16 / (212 x 1.05) = 2.3 for /16, and 0.58 for 8 experts."""
    plain = ["routing.capacity_multiple_of=1", "routing.pairs_per_group=64"]  # 1 of 13,568 tokens is a small rounding
    for experts, needs in ((32, 2.3), (8, 0.575)):
        _, text = of("model=limoe_b16", f"model.num_experts={experts}", *plain)
        assert text["experts_text_needs"] == pytest.approx(needs, rel=0.002)


def test_two_choices_fill_two_experts() -> None:
    """tiny: 8 pairs of 32 tokens, 2 choices, 8 experts: 67.2, so 68 slots; 128 text tokens want two slots each."""
    found, text = of("model=limoe_tiny", "routing.k=2")
    assert found["slots_per_expert"] == 68 and found["experts_per_token"] == 2
    assert text["experts_text_needs"] == pytest.approx(2 * 128 / 68)
    assert text["best_text_success"] == pytest.approx(68 / 128) and "the same 2 experts" in text["says"]


def test_a_small_batch_is_one_group() -> None:
    found, _ = of("model=limoe_tiny", pairs=2)
    assert (found["pairs_per_group"], found["tokens_per_group"], found["slots_per_expert"]) == (2, 64, 12)  # 8.4 -> 12


def test_without_limit_nothing_can_be_seen() -> None:
    found, text = of("model=limoe_tiny", "routing.capacity_factor=null")
    assert found["slots_per_expert"] is None and found["effective_capacity_factor"] is None
    assert text["visible"] is False and "no limit" in text["says"]


@pytest.mark.parametrize(("routing", "slots"), [("soft", 2), ("expert_choice", 32)])
def test_experts_that_choose_cannot_overflow(routing: str, slots: int) -> None:
    found, text = of("model=limoe_tiny", f"routing={routing}")
    assert found["slots_per_expert"] == slots and text["visible"] is None and text["experts_text_needs"] is None


def test_in_two_towers_text_competes_with_text_alone() -> None:
    """16 tokens of 8 texts, 8 experts: 16.8, so 20 slots; all on one expert means 20 of 128."""
    info = summary(built("model=two_tower_moe_tiny"), pairs=64, micro_batch=64, precision="32-true", optimizer="adamw")
    assert info["capacity"]["tokens"] == "text" and set(info["capacity"]["towers"]) == {"image", "text"}
    assert info["collapse"]["best_text_success"] == pytest.approx(20 / 128)


def test_dense_models_have_no_slots() -> None:
    info = summary(built("model=dense_tiny"), pairs=64, micro_batch=64, precision="32-true", optimizer="adamw")
    assert info["capacity"]["slots_per_expert"] is None and info["collapse"]["visible"] is None
