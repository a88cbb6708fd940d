"""What one evaluation found: values per picture or query, from which numbers and their intervals follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float64, Int64
from torch import Tensor

from limoe.evaluation.bootstrap import bootstrap_interval, mean_over_groups


@dataclass(frozen=True)
class Measure:
    """One number: the mean of `values` (one per picture or query), or the mean over `groups` of their means.

    The latter weighs rare classes like frequent ones.
    """

    values: Float64[Tensor, "n"]
    groups: Int64[Tensor, "n"] | None = None

    @property
    def value(self) -> float:
        if self.groups is None:
            return self.values.mean().item()
        return float(mean_over_groups(self.values.numpy(), self.groups.numpy()))

    def interval(self) -> tuple[float, float]:
        """95 %: what other pictures or queries of the same kind would give, the model and the candidates fixed."""
        return bootstrap_interval(self.values.numpy(), groups=None if self.groups is None else self.groups.numpy())


class Answers(NamedTuple):
    """The class of each picture, and the one it was taken for, as positions in `class_names`."""

    labels: Int64[Tensor, "n"]
    predicted: Int64[Tensor, "n"]
    class_names: Sequence[str]
