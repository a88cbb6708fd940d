"""The order of training samples, as a pure function of seed, epoch, rank and world size."""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor
from torch.utils.data import Sampler

from limoe.errors import DataError


@dataclass
class EpochSampler(Sampler[tuple[int, int]]):
    """Yield (epoch, index) for one rank: whole batches only, equally many on every rank.

    Rank r takes every `world_size`-th place of one permutation, so the b-th joint batch holds the same samples for
    any number of ranks with the same joint batch size. The epoch is part of the index, since persistent workers would
    not see it change.

    With `shuffle_block` the permutation keeps blocks of that many consecutive indices together: their order and the
    order inside each are random, and a joint batch comes from one block; what does not fill a batch is left out. Where
    index i shows thing i modulo the block, no thing comes twice in a batch.

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
    shuffle_block: int | None = None

    def __post_init__(self) -> None:
        joint = self.batch_size * self.world_size
        block = self.size if self.shuffle_block is None else min(self.shuffle_block, self.size)
        self._block = block
        self._blocks = self.size // block
        self._used = block // joint * joint  # samples of a block
        self.batches = self._blocks * (block // joint)
        if self.batches == 0:
            of_block = "" if self.shuffle_block is None else f" (data.shuffle_block={self.shuffle_block})"
            raise DataError(
                f"training data: {block} samples{of_block} are fewer than one batch of {self.batch_size} on each of "
                f"{self.world_size} processes; lower data.batch_size"
            )

    def __len__(self) -> int:
        """Samples of a whole epoch on this rank, independent of the first batch."""
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, batch = self.position()
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = self._order(generator)[self.rank :: self.world_size]
        return iter([(epoch, index) for index in order[batch * self.batch_size : len(self)].tolist()])

    def _order(self, generator: torch.Generator) -> Tensor:
        """The samples of an epoch over all ranks."""
        if self.shuffle_block is None:
            return torch.randperm(self.size, generator=generator)
        # [blocks, used] the samples of each block, then the blocks in random order
        blocks = torch.randperm(self._blocks, generator=generator)
        inside = [torch.randperm(self._block, generator=generator)[: self._used] for _ in range(self._blocks)]
        return (blocks[:, None] * self._block + torch.stack(inside)).flatten()
