"""Means over seeds with intervals, worked out by hand."""

import math

import pytest

from limoe.reporting.seeds import estimate, paired_difference, verdict


def test_estimate() -> None:
    # 1, 2, 3: mean 2, standard deviation 1, t(2) = 4.303: half = 4.303 / sqrt(3) = 2.4843
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.half == pytest.approx(2.4843, abs=1e-4)
    assert not found.excludes_zero


def test_one_seed_has_no_interval() -> None:
    assert estimate([0.5]).half == math.inf
    assert verdict(estimate([0.5]), higher=True) == "one seed: no interval"


@pytest.mark.parametrize(
    ("n", "quantile"), [(2, 12.706), (16, 2.131), (17, 2.131), (31, 2.086), (40, 2.042), (500, 1.98)]
)
def test_quantiles_never_promise_too_much(n: int, quantile: float) -> None:
    values = [(-1.0) ** i for i in range(n)]
    mean = sum(values) / n
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    assert estimate(values).half == pytest.approx(quantile * spread / math.sqrt(n))


def test_differences_are_taken_seed_by_seed() -> None:
    # seeds 1 and 2 are shared: 0.1 and 0.3; seed 9 has no partner
    found = paired_difference({1: 0.6, 2: 0.9, 9: 5.0}, {1: 0.5, 2: 0.6, 3: 0.1})
    assert found is not None and found.n == 2
    assert found.mean == pytest.approx(0.2)
    assert paired_difference({1: 1.0}, {2: 1.0}) is None


@pytest.mark.parametrize(
    ("differences", "higher", "expected"),
    [
        ([0.10, 0.11, 0.12], None, "higher"),
        ([-0.10, -0.11, -0.12], None, "lower"),
        ([-0.1, 0.1, 0.3], None, "within noise"),
        ([0.10, 0.11, 0.12], True, "better"),
        ([0.10, 0.11, 0.12], False, "worse"),
        ([-0.10, -0.11, -0.12], False, "better"),
        ([-0.1, 0.1, 0.3], True, "within noise"),
    ],
)
def test_verdict(differences: list[float], higher: bool | None, expected: str) -> None:
    assert verdict(estimate(differences), higher=higher) == expected


def test_verdict_without_pairs() -> None:
    assert verdict(None, higher=True) == "no seed in common"
