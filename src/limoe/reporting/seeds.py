"""Statistics over seeds: means with intervals, and paired differences between variants."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds; `half` is half the width of its 95 % t interval, infinite for one seed.

    `values` are those of the seeds, in their order.
    """

    mean: float
    half: float
    n: int
    values: tuple[float, ...] = ()


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of at least one value."""
    n = len(values)
    half = float(stats.t.ppf(0.975, n - 1) * stats.sem(values)) if n > 1 else math.inf
    return Estimate(fmean(values), half, n, tuple(values))


def band(values: Sequence[float], *, share: bool) -> tuple[float, float]:
    """Ends of the 95 % interval of three or more values, else of their range; those of a share within [0, 1]."""
    value = estimate(values)
    low, high = (value.mean - value.half, value.mean + value.half) if value.n > 2 else (min(values), max(values))
    return (max(low, 0.0), min(high, 1.0)) if share else (low, high)


def paired_difference(own: Mapping[int, float], base: Mapping[int, float]) -> Estimate | None:
    """Estimate of `own - base` over the common seeds; None without a common seed."""
    shared = sorted(own.keys() & base.keys())
    return estimate([own[seed] - base[seed] for seed in shared]) if shared else None


def verdict(difference: Estimate | None, *, higher: bool | None) -> str:
    """An interval of differences in words; `higher`: True if higher is better, None if neither is."""
    if difference is None:
        return "no seed in common"
    if difference.n < 2:
        return "one seed: no interval"
    if not abs(difference.mean) > difference.half:
        return "within noise"
    if higher is None:
        return "higher" if difference.mean > 0 else "lower"
    return "better" if (difference.mean > 0) == higher else "worse"
