"""Groups and seats, shared by the routers that have them."""

import pytest
import torch
from builders import flat_stream, pair_stream, top_k_router

from limoe.errors import ConfigError
from limoe.routing.base import Router, with_noise
from limoe.types import RouterOutput


def capacity(*, tokens: int, **settings: object) -> int | None:
    return (
        Router(**{"num_experts": 4, "pairs_per_group": 1, **settings})
        .groups(flat_stream(groups=3, length=tokens))
        .capacity
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
    stream, x = flat_stream(groups=1, length=10), torch.ones(10, 1)
    for rounding, seats in (("ceil", 3), ("round", 2)):
        settings = {"capacity_factor": 1.0, "capacity_multiple_of": 1, "capacity_rounding": rounding, "noise_std": 0.0}
        routed: RouterOutput = top_k_router(1, num_experts=4, **settings)(x, stream)
        assert (routed.capacity, int(routed.kept.sum())) == (seats, seats)


def test_groups_are_whole_pairs() -> None:
    """Five pairs, two per group: both modalities of a pair in its group, the last group is smaller."""
    stream = pair_stream(pairs=5, image_tokens=2, text_tokens=1)
    groups = Router(num_experts=2, pairs_per_group=2).groups(stream)
    assert (groups.total, groups.pairs) == (3, 2)
    assert groups.of_token.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 0, 0, 1, 1, 2]
    whole = Router(num_experts=2, pairs_per_group=None).groups(stream)
    assert (whole.total, whole.pairs, whole.of_token.unique().tolist()) == (1, 5, [0])


def test_seats_follow_the_mode() -> None:
    router = Router(num_experts=2, capacity_factor=1.0, capacity_multiple_of=1, eval_capacity_factor=0.5)
    stream = flat_stream(groups=1, length=8)
    assert (router.groups(stream).capacity, router.eval().groups(stream).capacity) == (4, 2)
    assert router.depends_on_batch and not Router(num_experts=2).depends_on_batch


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
    with pytest.raises(ConfigError, match=rf"routing\.{key} must be .* got {value!r}"):
        Router(num_experts=4, **{key: value})
