"""Metrics of the tasks for torchmetrics, gathered over ranks: intervals over images or queries, one rule for ties."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

RESAMPLES, LEVEL, SEED = 2000, 0.95, 0
INTERVAL = {  # of the records
    "level": LEVEL,
    "method": "percentile bootstrap over images (retrieval: queries)",
    "resamples": RESAMPLES,
    "seed": SEED,
}
_VALUES = 4_000_000  # drawn values held in memory at once
TIE = 1e-6  # smaller differences of cosines are ties: float32 features of one image in two batches differ by 1e-7


@dataclass(frozen=True)
class Measure:
    """One metric: the mean of `values` (one per image or query), or the mean over `groups` of their means.

    The latter weighs rare and frequent classes equally.
    """

    values: Float64[Tensor, "n"]
    groups: Int64[Tensor, "n"] | None = None

    @property
    def value(self) -> float:
        if self.groups is None:
            return self.values.mean().item()
        return float(mean_over_groups(self.values.numpy(), self.groups.numpy()))

    def interval(self) -> tuple[float, float]:
        """95 % interval over images or queries, with the model and the candidates fixed."""
        return bootstrap_interval(self.values.numpy(), groups=None if self.groups is None else self.groups.numpy())


class TaskMetric(Metric):
    """Metrics of one task, from columns with one entry per image or query; `compute` returns them by key.

    A column is a list state that torchmetrics concatenates over ranks, in their order. Ranks may hold different numbers
    of entries, also none, but each must call `update`. Entries are kept instead of counts of hits, since intervals
    resample them. Values read here are those of this rank, of all ranks inside `sync_context()`.
    """

    full_state_update = False

    def __init__(self, *columns: str) -> None:
        super().__init__()
        for column in columns:
            self.add_state(column, default=[], dist_reduce_fx="cat")

    def add(self, **entries: Tensor) -> None:
        for column, new in entries.items():
            getattr(self, column).append(new)

    def entries(self, column: str) -> Tensor:
        return dim_zero_cat(getattr(self, column)).cpu()

    def compute(self) -> dict[str, float]:
        return {key: measure.value for key, measure in self.measures().items()}

    @abstractmethod
    def measures(self) -> dict[str, Measure]:
        """Per-image or per-query values of each metric."""

    def details(self) -> dict[str, Any]:
        """Further content of the record beside the metrics."""
        return {}


class Classification(TaskMetric):
    """`<name>_top<k>`, the share of images with their class among the k best scores, and `<name>_class_mean`.

    The latter is the mean over classes of their top-1. torchmetrics' MulticlassAccuracy has other rules: it gives a tie
    to the first class, so that collapsed features are correct for its images, while here a tie (or NaN) is an error;
    and its macro average counts a class without images as 0 if it is predicted, while here such a class is left out.
    """

    def __init__(self, name: str, *, ks: Sequence[int], **details: Any) -> None:
        super().__init__("ranks", "labels")
        self.name = name
        self.ks = ks
        self._details = details

    def update(self, scores: Float[Tensor, "n classes"], labels: Int64[Tensor, "n"]) -> None:
        self.add(ranks=ranks_of(scores, labels), labels=labels)

    def measures(self) -> dict[str, Measure]:
        ranks = self.entries("ranks")
        found = {f"{self.name}_top{k}": Measure((ranks < k).double()) for k in self.ks}
        return found | {f"{self.name}_class_mean": Measure((ranks == 0).double(), groups=self.entries("labels"))}

    def details(self) -> dict[str, Any]:
        return self._details


class FewShotAccuracy(TaskMetric):
    """`fewshot<shots>_top1`, the mean over seeds: an image counts by its share of correct seeds.

    `short`: number of classes with fewer training images, by shots. The details hold one accuracy per seed.
    """

    def __init__(self, short: Mapping[int, int]) -> None:
        super().__init__(*(f"shots{k}" for k in short))
        self.short = short

    def update(self, hits: Mapping[int, Float64[Tensor, "n seeds"]]) -> None:
        """Add hits (1 or 0) of this rank's images by seed, by number of shots."""
        self.add(**{f"shots{k}": new for k, new in hits.items()})

    def measures(self) -> dict[str, Measure]:
        return {f"fewshot{k}_top1": Measure(self.entries(f"shots{k}").mean(1)) for k in self.short}

    def details(self) -> dict[str, Any]:
        seeds = {k: self.entries(f"shots{k}").mean(0).tolist() for k in self.short}
        return {f"fewshot{k}_top1": {"per_seed": seeds[k], "classes_with_fewer_images": self.short[k]} for k in seeds}


def wrong_before(
    scores: Float[Tensor, "queries candidates"], right: Bool[Tensor, "queries candidates"]
) -> Int64[Tensor, "queries"]:
    """Number of negatives ranked before the best positive (`right`) of each query; below k means found at k.

    Ties rank the negative first, so that duplicates, collapsed features and NaN do not count as hits. Undefined for a
    query without a positive.
    """
    best = scores.masked_fill(~right, float("-inf")).amax(1, keepdim=True)
    before = ~(scores < best - TIE) & ~right  # negated, so that NaN ranks before everything
    return before.sum(1)


def ranks_of(scores: Float[Tensor, "n classes"], labels: Int64[Tensor, "n"]) -> Int64[Tensor, "n"]:
    """Wrong classes ranked before the true one. A tie is an error, so classes of one name are never correct."""
    return wrong_before(scores, F.one_hot(labels, scores.shape[1]).bool())


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
