"""Records of unusable samples: reason, counts by kind, and the first few by name."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from limoe.errors import DataError, one_line

SHOWN = 20
_CELL = 100  # characters, the last ones of a longer text


class BadSample(NamedTuple):
    """One unusable sample. `place` is the shard, table or folder, `kind` the category for the counts."""

    place: str
    key: str
    kind: str
    reason: str

    def line(self) -> str:
        return f"{self.place}: {self.key!r}: {self.reason}"


class BadContent(DataError):
    """Bytes that hold no usable image or text; `at` adds their source."""

    def __init__(self, reason: str, *, kind: str = "unreadable") -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind

    def at(self, place: str, key: str) -> BadSample:
        return BadSample(place, key, self.kind, self.reason)


class BadSampleError(DataError):
    """A sample that an index or table lists as good could not be read."""

    def __init__(self, sample: BadSample) -> None:
        super().__init__(sample.line())
        self.sample = sample

    def __reduce__(self) -> tuple:
        return BadSampleError, (self.sample,)


@dataclass
class BadSamples:
    """Counts by kind, and the first `SHOWN` different samples (each epoch meets the same ones again)."""

    counts: Counter[str] = field(default_factory=Counter)
    first: list[BadSample] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.counts.total()

    def add(self, sample: BadSample) -> None:
        self.counts[sample.kind] += 1
        if len(self.first) < SHOWN and sample not in self.first:
            self.first.append(sample)

    def merge(self, other: "BadSamples") -> None:
        self.counts += other.counts
        self.first = list(dict.fromkeys([*self.first, *other.first]))[:SHOWN]

    def by_kind(self) -> str:
        """Counts such as `bad_image 12, empty 1`, in decreasing order."""
        return ", ".join(f"{one_line(kind)} {count:,}" for kind, count in self.counts.most_common())

    def summary(self) -> str:
        """One line such as `13 (bad_image 12, empty 1), first a.tar: '0001': its image is empty`, or `none`."""
        if not self.first:
            return "none"
        return f"{self.total:,} ({self.by_kind()}), first {self.first[0].line()}"

    def table(self) -> str:
        """The first samples, one per line, under a line of headings; control characters are escaped."""
        lines = ["place  key  reason"]
        for bad in self.first:
            cells = [one_line(text)[-_CELL:] for text in (bad.place, bad.key, bad.reason)]
            lines.append("  ".join(cells))
        return "\n".join(lines)


class LeavesOutBad:
    """A source that finds its bad samples when it is built, and leaves them out.

    Attributes:
        bad: the samples that were left out. They count against `data.max_bad_fraction` and are listed in `run.json`.
    """

    bad: BadSamples


def bad_of(pairs: object) -> BadSamples:
    """Samples that a source left out when it was built; none for a source that finds them only when reading."""
    return pairs.bad if isinstance(pairs, LeavesOutBad) else BadSamples()
