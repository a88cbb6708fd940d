"""Capacity and groups, shared by the routers that have them; the contract of a router."""

from typing import Any

import pytest
import torch

from limoe.errors import ArgumentError
from limoe.routing.base import Capacity, Router, capacity_usage, with_noise
from tests.helpers.builders import decide, packed_groups, packed_pairs, top_k_router


def capacity(*, tokens: int, **settings: object) -> int | None:
    packed = packed_groups(groups=3, length=tokens)
    return limits(pairs_per_group=1, **settings).groups(packed, num_experts=4, training=True).capacity


def limits(**settings: Any) -> Capacity:
    return Capacity(
        **{
            "capacity_factor": 1.05,
            "eval_capacity_factor": None,
            "capacity_rounding": "ceil",
            "capacity_multiple_of": 4,
            "pairs_per_group": 8,
            **settings,
        }
    )


def test_rounding_is_a_choice() -> None:
    """10 tokens, 4 experts: share 2.5 at factor 1 (half goes to even: 2), 2.625 at 1.05, 0.25 at 0.1."""
    one = {"tokens": 10, "capacity_multiple_of": 1}
    assert [capacity(**one, capacity_factor=f, capacity_rounding="ceil") for f in (1.0, 1.05, 0.1)] == [3, 3, 1]
    assert [capacity(**one, capacity_factor=f, capacity_rounding="round") for f in (1.0, 1.05, 0.1)] == [2, 3, 1]
    assert capacity(tokens=10, capacity_factor=1.0, capacity_rounding="round") == 4  # 2, then a multiple of 4
    assert capacity(tokens=10, capacity_factor=9.0) == 10
    assert capacity(tokens=10, capacity_factor=None) is None


def test_the_router_uses_its_rounding() -> None:
    packed, x = packed_groups(groups=1, length=10), torch.ones(10, 1)
    for rounding, slots in (("ceil", 3), ("round", 2)):
        settings = {"capacity_factor": 1.0, "capacity_multiple_of": 1, "capacity_rounding": rounding, "noise_std": 0.0}
        routed = decide(top_k_router(1, num_experts=4, **settings), x, packed)
        assert (routed.capacity, int(routed.kept.sum())) == (slots, slots)


def test_groups_are_whole_pairs() -> None:
    """Five pairs, two per group: both modalities of a pair in its group, the last group is smaller."""
    packed = packed_pairs(pairs=5, image_tokens=2, text_tokens=1)
    groups = limits(pairs_per_group=2).groups(packed, num_experts=2, training=True)
    assert (groups.total, groups.pairs) == (3, 2)
    assert groups.of_token.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 0, 0, 1, 1, 2]
    whole = limits(pairs_per_group=None).groups(packed, num_experts=2, training=True)
    assert (whole.total, whole.pairs, whole.of_token.unique().tolist()) == (1, 5, [0])


def test_capacity_follows_the_mode() -> None:
    """8 tokens, 2 experts: 4 slots at factor 1, 2 at factor 0.5."""
    settings = {"capacity_factor": 1.0, "capacity_multiple_of": 1, "eval_capacity_factor": 0.5}
    router = top_k_router(1, num_experts=2, **settings)
    packed, x = packed_groups(groups=1, length=8), torch.ones(8, 1)
    assert decide(router, x, packed).capacity == 4
    assert decide(router.eval(), x, packed).capacity == 2
    assert router.depends_on_batch and not top_k_router(1, num_experts=2).depends_on_batch


def test_usage_by_hand() -> None:
    """4 + 2 tokens per pair, 2 pairs per group, 3 experts, factor 1.5: 12 * 1.5 / 3 = 6 slots, 9 rows per pair."""
    capacity = limits(capacity_factor=1.5, capacity_multiple_of=1, pairs_per_group=2)
    lengths = {"image": 4, "text": 2}
    usage = capacity_usage(capacity, lengths, num_experts=3, k=1, pairs=8)
    assert usage.rows == {"image": 4, "text": 2} and usage.computed_rows == 9
    assert (usage.slots, usage.pairs_per_group, usage.effective_capacity_factor) == (6, 2, 1.5)
    filled = capacity_usage(capacity, lengths, num_experts=3, k=1, pairs=8, filled=True)
    assert filled.experts_per_token == 1.5 and filled.rows == {"image": 6, "text": 3}  # all 18 slots for 12 tokens


def test_a_router_without_its_methods_is_refused() -> None:
    class Half(Router):
        pass

    with pytest.raises(TypeError, match="abstract methods"):
        Half(num_experts=2)  # type: ignore[abstract]


def test_no_noise_is_no_draw() -> None:
    logits = torch.randn(5, 3)
    state = torch.get_rng_state()
    assert with_noise(logits, 0.0) is logits
    assert torch.equal(torch.get_rng_state(), state)
    assert with_noise(torch.zeros(100_000), 0.25).std().item() == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize(
    ("key", "value"), [("capacity_rounding", "floor"), ("capacity_multiple_of", 0), ("pairs_per_group", 0)]
)
def test_bad_settings_name_key_and_value(key: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=rf"{key} must be .* got {value!r}"):
        limits(**{key: value})
