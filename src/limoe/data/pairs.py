"""Base classes of the data sources: descriptions without images, reading, subsets."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from limoe.data.bad_samples import BadContent, BadSampleError, LeavesOutBad, bad_of
from limoe.data.images.decoding import decode_rgb
from limoe.errors import DataError
from limoe.types import Pair, PairDataset


class Description(NamedTuple):
    """A pair without its image."""

    captions: list[str]
    labels: dict[str, str]
    key: str


@runtime_checkable
class DescribedPairs(PairDataset, Protocol):
    """A source that gives captions, labels and key of a pair without reading or drawing the image."""

    @abstractmethod
    def describe(self, index: int) -> Description: ...

    def captions(self) -> Iterator[str]:
        for index in range(len(self)):
            yield from self.describe(index).captions


class StoredPairs(DescribedPairs, LeavesOutBad):
    """Pairs with texts known from the start and images decoded on access.

    `place` names the source in messages.
    """

    place: str

    @abstractmethod
    def image(self, index: int) -> bytes:
        """Encoded bytes of image `index`. Raises `BadContent`."""

    def __getitem__(self, index: int) -> Pair:
        text = self.describe(index)
        try:
            return Pair(decode_rgb(self.image(index)), *text)
        except BadContent as error:
            raise BadSampleError(error.at(self.place, text.key)) from error

    def require_pairs(self, rule: str) -> None:
        """Raise `DataError` if there is no pair; `rule` is the selection that they had to fit."""
        if len(self) == 0:
            raise DataError(f"{self.place}: no usable pair ({rule}; left out as bad: {self.bad.summary()})")


class PairSubset(DescribedPairs, LeavesOutBad):
    """The pairs of `pairs` at `indices`, in that order; with captions where `pairs` describes its pairs.

    `bad` lists all samples that `pairs` left out.
    """

    def __init__(self, pairs: PairDataset, indices: Sequence[int]) -> None:
        self.pairs: Any = pairs
        self.indices = list(indices)
        self.bad = bad_of(pairs)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[self.indices[index]]

    def describe(self, index: int) -> Description:
        return self.pairs.describe(self.indices[index])
