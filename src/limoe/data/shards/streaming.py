"""Training on streamed shards, for data sets on a server or too large to index.

Prefer the indexed sources: here the order is that of a shuffle buffer and depends on the number of processes and loader
processes, and a resumed run restarts its stream, so that within that epoch some pairs occur twice and others not at
all. As with indexed sources every batch is full, every process takes equally many steps, the same settings give the
same batches, and bad samples are counted by the same rules.
"""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from random import Random
from typing import Any

from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from limoe.data.bad_samples import BadSample, BadSampleError
from limoe.data.datamodule import PairDataModule
from limoe.data.loading import Example, ResumableLoader
from limoe.data.shards.stream import ShardStream
from limoe.data.text.text_tokenizer import TextTokenizer
from limoe.errors import DataError, require_argument
from limoe.parallel.collectives import rank, world_size

_MOST_IN_A_ROW = 1000  # bad samples without a good one between them


@dataclass
class StreamExamples(IterableDataset[Example]):
    """The examples of one epoch on one rank: `batches` full batches, divided among the loader processes.

    `start` is the epoch and its first batch; it seeds the order. Bad samples that were skipped are attached to the next
    good one; with `replace=False` the first of them raises `DataError`.
    """

    stream: ShardStream
    _: KW_ONLY
    transform: Callable[[Image, Random], Tensor]
    seed: int
    batch_size: int
    rank: int
    world_size: int
    replace: bool
    start: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.batches = self.stream.epoch_pairs // (self.batch_size * self.world_size)
        if self.batches == 0:
            raise DataError(
                f"data.epoch_pairs={self.stream.epoch_pairs} is less than one batch of {self.batch_size} on each of "
                f"{self.world_size} processes; raise it or lower data.batch_size"
            )

    def __len__(self) -> int:
        """Examples of a whole epoch on this rank, independent of the first batch."""
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[Example]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        left = range(self.start[1], self.batches)[number::workers]
        return self._examples(len(left) * self.batch_size, part=self.rank * workers + number, workers=workers)

    def _examples(self, count: int, *, part: int, workers: int) -> Iterator[Example]:
        parts = self.world_size * workers
        if len(self.stream.shards) < parts:
            raise DataError(
                f"data.shards: {len(self.stream.shards)} shards are fewer than {self.world_size} processes x {workers} "
                "loader processes; lower data.num_workers, or cut the data into more shards"
            )
        seed = f"{self.seed}/{self.start[0]}/{self.start[1]}"
        pairs = self.stream.pairs(rng=Random(seed), part=part, parts=parts)
        bad: list[BadSample] = []
        done = 0
        while done < count:
            pair = next(pairs)
            if isinstance(pair, BadSample):
                self._skip(pair, bad)
                continue
            rng = Random(f"{seed}/{part}/{done}")
            caption = rng.choice(pair.captions)
            yield Example(self.transform(pair.image, rng), caption, part + done * parts, tuple(bad))
            bad = []
            done += 1

    def _skip(self, sample: BadSample, bad: list[BadSample]) -> None:
        if not self.replace:
            raise DataError(str(BadSampleError(sample)))  # a loader process can pass no `BadSampleError`
        bad.append(sample)
        if len(bad) > _MOST_IN_A_ROW:
            raise DataError(f"{len(bad):,} samples in a row are bad, the last is {BadSampleError(sample)}")


class StreamLoader(ResumableLoader):
    """A loader that starts each iteration at the epoch and first batch that `position` returns."""

    def __init__(self, examples: StreamExamples, *, position: Callable[[], tuple[int, int]], **settings: Any) -> None:
        super().__init__(examples, **settings)
        self.examples = examples
        self.position = position

    def __iter__(self) -> Any:
        self.examples.start = self.position()
        return super().__iter__()


class StreamingDataModule(PairDataModule):
    """A `PairDataModule` with a training stream of `train.epoch_pairs` pairs per epoch; validation is unchanged.

    The tokenizer is trained on the first captions of the stream, unless it is read from a file (tokenizer=file).
    """

    def __init__(self, *, train: ShardStream | None, **settings: Any) -> None:
        super().__init__(train=None, **settings)
        require_argument(self.shuffle_block is None, "shuffle_block", "null with streamed pairs", self.shuffle_block)
        self.stream = train

    def fit_tokenizer(self) -> TextTokenizer:
        assert self.stream is not None
        self.tokenizer = self.tokenizer_factory.fit(self.stream.captions())
        return self.tokenizer

    def train_dataloader(self) -> DataLoader:
        assert self.stream is not None
        examples = StreamExamples(
            self.stream,
            transform=self.train_transform,
            seed=self.seed,
            batch_size=self.batch_size,
            rank=rank(),
            world_size=world_size(),
            replace=self.on_bad == "replace",
        )
        return self._loader(
            StreamLoader,
            examples,
            position=lambda: (self._epoch, self._batch),
            batch_size=self.batch_size,
            collate_fn=self._collate(),
            persistent=False,  # loader processes get the epoch when they are started
        )
