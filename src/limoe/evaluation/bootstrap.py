"""Confidence intervals over images or queries: scipy's percentile bootstrap."""

import numpy as np
import scipy
from jaxtyping import Float64, Int64

RESAMPLES, LEVEL, SEED = 2000, 0.95, 0
_VALUES = 4_000_000  # drawn values held in memory at once


def mean_over_groups(
    values: Float64[np.ndarray, "*resamples n"], groups: Int64[np.ndarray, "*resamples n"], *, axis: int = -1
) -> Float64[np.ndarray, "*resamples"]:
    """Mean over groups of the mean of their values, along the last axis; empty groups are left out."""
    rows = groups.reshape(-1, groups.shape[axis])
    shape = (len(rows), groups.max() + 1)
    cells = (rows + shape[1] * np.arange(len(rows))[:, None]).ravel()
    sums = np.bincount(cells, weights=values.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    sizes = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    means = (sums / np.maximum(sizes, 1)).sum(1) / (sizes > 0).sum(1)
    return means.reshape(groups.shape[:-1])


def bootstrap_interval(
    values: Float64[np.ndarray, "n"],
    *,
    groups: Int64[np.ndarray, "n"] | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = SEED,
) -> tuple[float, float]:
    """Ends of the central `level` of the means of resampled `values`; with `groups`, of `mean_over_groups`.

    If all values are equal the interval has width 0, as always with this method, although the true value is uncertain.
    """
    if values.min() == values.max():  # scipy refuses a single value
        return float(values[0]), float(values[0])
    interval = scipy.stats.bootstrap(
        (values,) if groups is None else (values, groups),
        np.mean if groups is None else mean_over_groups,
        paired=groups is not None,  # an image is drawn together with its group
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _VALUES // len(values)),
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
