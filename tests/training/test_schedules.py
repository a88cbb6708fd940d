"""Learning-rate factors at steps worked out by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from limoe.training.schedules import cosine, rsqrt, warmup_stable_decay


def test_rsqrt_at_hand_computed_steps() -> None:
    """1000 steps, warmup 10, timescale 50, cooldown 100; peak 1e-3 as the reference's example."""
    factor = rsqrt(total_steps=1000, warmup=10, cooldown=100, timescale=50)
    assert factor(0) == 0
    assert factor(5) == pytest.approx(0.5)
    assert factor(10) == 1.0
    assert factor(60) == pytest.approx(1 / math.sqrt(2))  # 1 + 50 / 50
    assert factor(160) == pytest.approx(0.5)  # 1 + 150 / 50 = 4
    assert factor(900) == pytest.approx(1 / math.sqrt(18.8))  # 1 + 890 / 50, the cooldown starts
    # 1 + 965 / 50 = 20.3; sqrt 4.505552; 25 of 100 steps are left: 1e-3 * 0.25 / 4.505552
    assert 1e-3 * factor(975) == pytest.approx(5.549e-5, rel=1e-4)
    assert factor(1000) == 0 and factor(1001) == 0


def test_rsqrt_without_warmup_and_cooldown() -> None:
    factor = rsqrt(total_steps=10, warmup=0, cooldown=0, timescale=1)
    assert [factor(s) for s in (0, 3, 10)] == pytest.approx([1, 0.5, 1 / math.sqrt(11)])


def test_cosine_at_hand_computed_steps() -> None:
    """Warmup 10, then 100 steps: a third of the way cos 60 deg = 0.5 -> 0.75; half 0.5; end 0.1 + 0."""
    factor = cosine(total_steps=130, warmup=10)
    assert [factor(s) for s in (0, 5, 10, 50, 70, 130, 999)] == pytest.approx([0, 0.5, 1, 0.75, 0.5, 0, 0])
    floor = cosine(total_steps=130, warmup=10, final_factor=0.2)
    assert [floor(s) for s in (5, 10, 70, 130)] == pytest.approx([0.5, 1, 0.6, 0.2])
    assert cosine(total_steps=4, warmup=4)(3) == pytest.approx(0.75)


def test_warmup_stable_decay_at_hand_computed_steps() -> None:
    factor = warmup_stable_decay(total_steps=100, warmup=10, cooldown=20)
    assert [factor(s) for s in (0, 1, 10, 50, 80, 95, 100, 101)] == pytest.approx([0, 0.1, 1, 1, 1, 0.25, 0, 0])


def test_a_fraction_is_a_share_of_the_run_and_a_whole_number_counts_steps() -> None:
    shares, steps = (warmup_stable_decay(total_steps=200, warmup=w, cooldown=c) for w, c in ((0.1, 0.25), (20, 50)))
    assert [shares(s) for s in range(201)] == [steps(s) for s in range(201)]
    assert cosine(total_steps=200, warmup=1)(1) == 1.0  # one step, not the whole run
    assert cosine(total_steps=200, warmup=1.0)(100) == 0.5
    assert rsqrt(total_steps=200, warmup=0.0, cooldown=0)(0) == 1.0


@pytest.mark.parametrize("build", [rsqrt, warmup_stable_decay])
def test_warmup_and_cooldown_may_overlap(build: Callable[..., Any]) -> None:
    factor = build(total_steps=10, warmup=10, cooldown=10)
    assert [factor(s) for s in (0, 5, 10)] == pytest.approx([0, 0.25, 0])


@pytest.mark.parametrize("build", [rsqrt, cosine, warmup_stable_decay])
def test_factors_stay_between_zero_and_one(build: Callable[..., Any]) -> None:
    rest = {} if build is cosine else {"cooldown": 7}
    factor = build(total_steps=50, warmup=5, **rest)
    assert all(0 <= factor(s) <= 1 for s in range(60)) and max(factor(s) for s in range(60)) == 1


@pytest.mark.parametrize(
    ("build", "change", "message"),
    [
        (rsqrt, {"total_steps": 0}, r"total_steps must be > 0, got 0"),
        (rsqrt, {"total_steps": -1}, r"total_steps must be > 0, got -1"),
        (rsqrt, {"warmup": 101}, r"^warmup must be .* steps up to total_steps=100, got 101"),
        (rsqrt, {"cooldown": -1}, r"^cooldown must be a fraction"),
        (rsqrt, {"warmup": 1.5}, r"^warmup must be a fraction of the run .*, got 1\.5"),
        (cosine, {"warmup": -0.1}, r"^warmup must be a fraction .* got -0\.1"),
        (rsqrt, {"timescale": 0}, r"^timescale must be > 0, got 0"),
        (cosine, {"final_factor": 1.5}, r"^final_factor must be between 0 and 1, got 1\.5"),
        (warmup_stable_decay, {"cooldown": 101}, r"^cooldown must be a fraction"),
    ],
)
def test_bad_settings(build: Callable[..., Any], change: dict, message: str) -> None:
    settings = {"total_steps": 100, "warmup": 10} | ({} if build is cosine else {"cooldown": 10})
    with pytest.raises(ValueError, match=message):
        build(**{**settings, **change})
