"""The order of training samples, as a pure function of seed, epoch, rank and world size."""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass

import torch
from torch.utils.data import Sampler

from limoe.errors import DataError


@dataclass
class EpochSampler(Sampler[tuple[int, int]]):
    """Yield (epoch, index) for one rank: whole batches only, equally many on every rank.

    Rank r takes every `world_size`-th place of one permutation, so the b-th joint batch holds the same samples for
    any number of ranks with the same joint batch size. The epoch is part of the index, since persistent workers would
    not see it change.

    `position` returns the epoch and its first batch to yield, at every iteration. There is no `set_epoch`: after
    resuming at the end of an epoch Lightning would call it with a number that is one too high.
    """

    size: int
    _: KW_ONLY
    batch_size: int
    seed: int
    position: Callable[[], tuple[int, int]]
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        self.batches = self.size // (self.batch_size * self.world_size)
        if self.batches == 0:
            raise DataError(
                f"training data: {self.size} samples are fewer than one batch of {self.batch_size} on each of "
                f"{self.world_size} processes; lower data.batch_size"
            )

    def __len__(self) -> int:
        """Samples of a whole epoch on this rank, independent of the first batch."""
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, batch = self.position()
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.size, generator=generator)[self.rank :: self.world_size]
        return iter([(epoch, index) for index in order[batch * self.batch_size : len(self)].tolist()])
