"""A mixture of several sources, each with its share of an epoch."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from fractions import Fraction
from itertools import accumulate

from limoe.data.bad_samples import BadSamples, LeavesOutBad, bad_of
from limoe.data.pairs import DescribedPairs, Description
from limoe.errors import DataError, require_argument
from limoe.types import Pair


class Mixture(DescribedPairs, LeavesOutBad):
    """Pairs of several sources. `weights[name]` over the sum of all weights is the share of the source `name` in an
    epoch; null: its length is the weight.

    An epoch has `size` places. Null: the smallest number with which every pair of every source occurs: the sum of the
    lengths without weights, the largest length / share with them. A source with more places than pairs repeats all of
    its pairs as often as they fit, then evenly spread ones once more. A source with fewer places (only with an explicit
    `size`) gives evenly spread pairs, the same ones in every epoch.

    The pair at a place depends on lengths, weights and size alone. The label `source` is the name of the source, and
    keys begin with it. `captions` has those of every place, so a tokenizer is trained on the sources by share.
    """

    def __init__(
        self,
        *,
        sources: Mapping[str, DescribedPairs],
        weights: Mapping[str, float] | None = None,
        size: int | None = None,
    ) -> None:
        _check(sources, weights, size)
        self.sources = dict(sources)
        lengths = {name: len(source) for name, source in sources.items()}
        relative = {name: Fraction(lengths[name] if weights is None else weights[name]) for name in sources}
        shares = {name: weight / sum(relative.values()) for name, weight in relative.items()}
        if size is None:
            size = math.ceil(max(lengths[name] / share for name, share in shares.items()))
        self.counts = _apportion(shares, size)
        self.bad = BadSamples()  # samples that the sources left out
        for source in sources.values():
            self.bad.merge(bad_of(source))
        self._names = list(self.counts)
        self._starts = list(accumulate(self.counts.values(), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Pair:
        name, inner = self.locate(index)
        pair = self.sources[name][inner]
        return Pair(pair.image, *_marked(name, Description(*pair[1:])))

    def describe(self, index: int) -> Description:
        name, inner = self.locate(index)
        return _marked(name, self.sources[name].describe(inner))

    def locate(self, index: int) -> tuple[str, int]:
        """Name of the source at a place, and the index in it."""
        place = range(len(self))[index]
        number = bisect_right(self._starts, place) - 1
        name = self._names[number]
        offset = place - self._starts[number]
        count = self.counts[name]
        length = len(self.sources[name])
        whole = count // length * length  # places of the complete passes
        return name, offset % length if offset < whole else (offset - whole) * length // (count - whole)


def _check(sources: Mapping[str, DescribedPairs], weights: Mapping[str, float] | None, size: int | None) -> None:
    require_argument(len(sources) > 0, "sources", "at least one", list(sources))
    if weights is not None:
        require_argument(weights.keys() == sources.keys(), "weights", f"one each for {', '.join(sources)}", weights)
        good = all(0 < weight < math.inf for weight in weights.values())
        require_argument(good, "weights", "> 0 (leave out a source to drop it)", weights)
    require_argument(size is None or size > 0, "size", "> 0 (pairs per epoch), or null", size)
    for name, source in sources.items():
        if len(source) == 0:
            raise DataError(f"source {name} of a mixture is empty; leave it out or fix its data")


def _apportion(shares: Mapping[str, Fraction], size: int) -> dict[str, int]:
    """Whole numbers that sum to `size`, each within 1 of its share (largest remainders; ties: order of the sources)."""
    counts = {name: math.floor(share * size) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - shares[name] * size)
    for name in by_remainder[: size - sum(counts.values())]:
        counts[name] += 1
    return counts


def _marked(name: str, text: Description) -> Description:
    return Description(text.captions, {**text.labels, "source": name}, f"{name}/{text.key}")
