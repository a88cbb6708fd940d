"""Policy for bad samples: replace and count them, end the run above a share."""

import logging
from collections.abc import Iterable

import torch.distributed as dist

from limoe.data.bad_samples import BadSample, BadSamples, bad_of
from limoe.errors import DataError, one_line, require_argument
from limoe.parallel.collectives import rank, world_size
from limoe.types import PairDataset

log = logging.getLogger(__name__)

MINIMUM = 1000  # samples; smallest denominator of the share of bad samples
STAND_INS = 10  # replacements tried for one sample
JOINT_CHECK = 50  # batches between two comparisons of several ranks


class BadSamplePolicy:
    """Count the bad samples of one process, and stop all processes when there are too many.

    `on_bad` is `replace` or `raise`. `max_bad_fraction` is the largest share of bad samples: of all samples where they
    are indexed at the start, of those read so far during training.
    """

    def __init__(self, *, on_bad: str, max_bad_fraction: float) -> None:
        require_argument(on_bad in ("replace", "raise"), "on_bad", "replace or raise", on_bad)
        require_argument(0 <= max_bad_fraction <= 1, "max_bad_fraction", "between 0 and 1", max_bad_fraction)
        self.stand_ins = STAND_INS if on_bad == "replace" else 0
        self.max_bad_fraction = max_bad_fraction
        self.replaced = BadSamples()
        self.read = self._batches = 0
        self._warned: list[BadSamples] = []

    def check_left_out(self, pairs: PairDataset, *, name: str) -> None:
        """Raise `DataError` if more samples of `pairs` than allowed were left out when it was indexed."""
        bad = bad_of(pairs)
        if bad.total and not self.stand_ins:
            raise DataError(f"{name} data has bad samples: {bad.summary()}; data.on_bad=replace leaves them out")
        total = len(pairs) + bad.total
        if bad.total > self.max_bad_fraction * total:
            raise self._too_many(bad, of=f"{total:,} {name} samples")
        self.warn_left_out(pairs, name=name)

    def warn_left_out(self, pairs: PairDataset, *, name: str) -> None:
        """Warn once per source with samples left out."""
        bad = bad_of(pairs)
        if bad.total and rank() == 0 and not any(bad is known for known in self._warned):
            self._warned.append(bad)
            log.warning("%s", one_line(f"{name} data: bad samples left out: {bad.summary()}"))

    def count(self, bad: Iterable[tuple[str, str, str, str]], *, good: int) -> None:
        """Count the samples of a batch that were replaced, and those read.

        Raises `DataError` if the share over all ranks is above the limit. Every rank counts equally many batches, so
        all ranks stop at the same one, with the same table.
        """
        for sample in bad:
            self.replaced.add(BadSample(*sample))
            self.read += 1
        self.read += good
        self._batches += 1
        if world_size() == 1 or self._batches % JOINT_CHECK == 0:
            joint, read = self._of_all_ranks()
            if joint.total > self.max_bad_fraction * max(read, MINIMUM):
                raise self._too_many(joint, of=f"{read:,} samples read so far")

    def finish(self) -> None:
        """Sum the counts of all ranks on rank 0, which logs them. Every rank must call this."""
        bad, read = self._of_all_ranks()
        self.replaced, self.read = (bad, read) if rank() == 0 else (BadSamples(), 0)
        if self.replaced.total:
            log.warning("%s", one_line(f"bad samples replaced, of {read:,} read: {bad.summary()}"))

    def _of_all_ranks(self) -> tuple[BadSamples, int]:
        if world_size() == 1:
            return self.replaced, self.read
        parts: list = [None] * world_size()
        dist.all_gather_object(parts, (self.replaced, self.read))
        joint = BadSamples()
        for bad, _ in parts:
            joint.merge(bad)
        return joint, sum(read for _, read in parts)

    def _too_many(self, bad: BadSamples, *, of: str) -> DataError:
        return DataError(
            f"{bad.total:,} of {of} are bad ({bad.by_kind()}), more than "
            f"data.max_bad_fraction={self.max_bad_fraction:g}; fix or remove them, or raise the limit",
            details=f"The first {len(bad.first)} of them:\n{bad.table()}",
        )
