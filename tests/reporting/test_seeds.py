"""Means over seeds with intervals, worked out by hand."""

import math

import pytest

from limoe.reporting.seeds import estimate, paired_difference, verdict


def test_estimate() -> None:
    # 1, 2, 3: mean 2, standard deviation 1, t(2) = 4.30265: half = 4.30265 / sqrt(3) = 2.48414
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.half == pytest.approx(2.48414, abs=1e-5)
    assert verdict(found, higher=True) == "within noise"


def test_one_seed_has_no_interval() -> None:
    assert estimate([0.5]).half == math.inf
    assert verdict(estimate([0.5]), higher=True) == "one seed: no interval"


@pytest.mark.parametrize(
    ("n", "quantile"),
    [
        (2, math.tan(0.475 * math.pi)),  # Student's t with 1 degree of freedom is the Cauchy distribution: 12.7062
        (3, 0.95 / math.sqrt(2 * 0.975 * 0.025)),  # and with 2 it has this closed form: 4.30265
        *((9, 2.306), (16, 2.131), (17, 2.120), (31, 2.042), (121, 1.980)),  # from a printed table
    ],
)
def test_quantiles_are_those_of_the_tables(n: int, quantile: float) -> None:
    values = [(-1.0) ** i for i in range(n)]
    mean = sum(values) / n
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    assert estimate(values).half * math.sqrt(n) / spread == pytest.approx(quantile, abs=5e-4)


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
