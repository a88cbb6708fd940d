"""Intervals against exact binomial quantiles and against resampling image by image."""

from math import comb

import numpy as np
import pytest

from limoe.evaluation import metrics
from limoe.evaluation.metrics import bootstrap_interval, mean_over_groups


def binomial_quantile(q: float, *, n: int, p: float) -> float:
    """Smallest share k / n whose cumulative probability reaches q."""
    total = 0.0
    for k in range(n + 1):
        total += comb(n, k) * p**k * (1 - p) ** (n - k)
        if total >= q:
            return k / n
    raise AssertionError


@pytest.mark.parametrize(("n", "hits"), [(50, 20), (200, 10)])
def test_hits_and_misses_follow_the_binomial(n: int, hits: int) -> None:
    values = np.array([1.0] * hits + [0.0] * (n - hits))
    low, high = bootstrap_interval(values, resamples=20_000)
    assert low == pytest.approx(binomial_quantile(0.025, n=n, p=hits / n), abs=1 / n + 1e-9)
    assert high == pytest.approx(binomial_quantile(0.975, n=n, p=hits / n), abs=1 / n + 1e-9)


def test_mean_over_groups_as_if_every_image_was_drawn() -> None:
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 4, size=60)
    values = (rng.random(60) < 0.2 + 0.2 * groups).astype(np.float64)
    means = []
    for _ in range(4000):
        drawn = rng.integers(0, 60, size=60)
        means.append(np.mean([values[drawn][groups[drawn] == g].mean() for g in np.unique(groups[drawn])]))
    low, high = bootstrap_interval(values, groups=groups, resamples=4000)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.01)


def test_a_group_that_a_resample_misses_stays_out_of_it() -> None:
    # Class 0 has one miss, class 1 three hits. The mean of a resample is 1 without class 0 (chance (3/4)^4 = 0.32),
    # 0 with class 0 alone (0.004), else 1/2.
    values, groups = np.array([0.0, 1, 1, 1]), np.array([0, 1, 1, 1])
    assert {bootstrap_interval(values, groups=groups, level=0.5, seed=seed) for seed in (0, 1)} == {(0.5, 1.0)}


def test_chunks_change_nothing_but_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(300)
    whole = bootstrap_interval(values)
    monkeypatch.setattr(metrics, "_VALUES", 300 * 7)
    assert bootstrap_interval(values) == pytest.approx(whole, abs=0.003)
    assert whole[0] < values.mean() < whole[1]


def test_seeded_and_of_no_width_where_all_are_equal() -> None:
    values = np.random.default_rng(0).random(40)
    assert bootstrap_interval(values) == bootstrap_interval(values) != bootstrap_interval(values, seed=1)
    assert bootstrap_interval(np.ones(9)) == (1.0, 1.0)
    assert bootstrap_interval(np.array([0.5])) == (0.5, 0.5)  # scipy refuses a single value


def test_mean_over_groups_by_hand() -> None:
    # Group 0: 1, 0. Group 2: 1. Group 1 has none. (1/2 + 1) / 2; in the second row group 2: 0 and group 0: 1, 1.
    values, groups = np.array([[1.0, 0, 1], [1, 1, 0]]), np.array([[0, 0, 2], [0, 0, 2]])
    assert mean_over_groups(values, groups).tolist() == [0.75, 0.5]
    assert mean_over_groups(values[0], groups[0]) == 0.75
