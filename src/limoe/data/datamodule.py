"""The data module: any sources, one tokenizer, transforms; batches whose order and randomness are pure functions.

What a training batch holds depends on (seed, epoch, batch, rank, world size) alone: not on the number of workers, not
on interruptions. The position inside an epoch is kept in this module's state, which Lightning restores before it asks
for the loader, so a resumed run goes on with exactly the next batch.
"""

from collections.abc import Callable
from random import Random
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader

from limoe.data.loading import BatchCollate, EvalExamples, ResumableLoader, TrainExamples, stack_pictures
from limoe.data.sampler import EpochSampler
from limoe.data.tokenizers import TextTokenizer, TokenizerFactory
from limoe.distributed import rank, world_size
from limoe.errors import DataError, require
from limoe.types import PairDataset

_WORKER_TIMEOUT = 300  # seconds until a worker that hangs ends the run


class PairDataModule(LightningDataModule):
    """`batch_size` counts pairs per process, `num_workers` loader processes (0: load in the training process).

    `tokenizer_factory` is fitted to the training captions by `fit_tokenizer`, or when first needed; setting `tokenizer`
    beforehand (from a run's tokenizer.json) skips that. Evaluation needs neither `train` nor `val`. The trainer needs
    `use_distributed_sampler=False`.
    """

    def __init__(
        self,
        *,
        train: PairDataset | None,
        val: PairDataset | None,
        tokenizer: TokenizerFactory,
        train_transform: Callable[[Image, Random], Tensor],
        eval_transform: Callable[[Image], Tensor],
        batch_size: int,
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        require(batch_size > 0, "data.batch_size", "> 0 (pairs per process)", batch_size)
        require(num_workers >= 0, "data.num_workers", ">= 0", num_workers)
        if train is not None and len(train) < batch_size:
            raise DataError(
                f"training data: {len(train)} samples are fewer than data.batch_size={batch_size}; lower it"
            )
        self.train = train
        self.val = val
        self.tokenizer_factory = tokenizer
        self.tokenizer: TextTokenizer | None = None
        self.train_transform = train_transform
        self.eval_transform = eval_transform
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self._epoch, self._batch = 0, 0  # the next batch to train on

    def fit_tokenizer(self) -> TextTokenizer:
        """Train the tokenizer on the training captions and keep it."""
        assert self.train is not None
        self.tokenizer = self.tokenizer_factory.fit(self.train.captions())
        return self.tokenizer

    def train_dataloader(self) -> DataLoader:
        assert self.train is not None
        sampler = EpochSampler(
            len(self.train),
            batch_size=self.batch_size,
            seed=self.seed,
            position=lambda: (self._epoch, self._batch),
            rank=rank(),
            world_size=world_size(),
        )
        examples = TrainExamples(self.train, transform=self.train_transform, seed=self.seed)
        return self._loader(
            ResumableLoader,
            examples,
            sampler=sampler,
            batch_size=self.batch_size,
            collate_fn=self._collate(),
            stay=True,
        )

    def val_dataloader(self) -> DataLoader | list:
        """Full batches in a fixed order, equally many on every rank; a last smaller one would have easier negatives."""
        if self.val is None:
            return []
        ranks = world_size()
        batch_size = min(self.batch_size, len(self.val) // ranks)
        if batch_size == 0:
            raise DataError(f"validation data: {len(self.val)} samples are fewer than the {ranks} processes")
        usable = len(self.val) // (batch_size * ranks) * batch_size * ranks
        examples = EvalExamples(self.val, transform=self.eval_transform)
        return self._loader(
            DataLoader,
            examples,
            sampler=range(rank(), usable, ranks),
            batch_size=batch_size,
            collate_fn=self._collate(),
            stay=True,
        )

    def picture_loader(self, pictures: PairDataset, batch_size: int | None = None) -> DataLoader:
        """Image tensors [b, 3, h, w] of all `pictures`, in their order, the same on every rank."""
        examples = EvalExamples(pictures, transform=self.eval_transform)
        return self._loader(
            DataLoader,
            examples,
            sampler=range(len(pictures)),
            batch_size=self.batch_size if batch_size is None else batch_size,
            collate_fn=stack_pictures,
            stay=False,
        )

    def setup(self, stage: str) -> None:
        """Begin at the beginning; the state of a checkpoint is loaded after this."""
        if stage == "fit":
            self._epoch, self._batch = 0, 0

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Keeps the place: Lightning's own counters are ambiguous at the end of an epoch and after resuming there."""
        if self.trainer is not None and self.trainer.training:
            self._batch += 1
            if self._batch >= self.trainer.num_training_batches:
                self._epoch, self._batch = self._epoch + 1, 0
        return batch

    def state_dict(self) -> dict[str, int]:
        """The next batch of the training order."""
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._epoch, self._batch = int(state_dict["epoch"]), int(state_dict["batch"])

    def _collate(self) -> BatchCollate:
        return BatchCollate(self.tokenizer if self.tokenizer is not None else self.fit_tokenizer())

    def _loader(self, kind: type[DataLoader], examples: Any, *, stay: bool, **settings: Any) -> DataLoader:
        workers = self.num_workers
        return kind(
            examples,
            num_workers=workers,
            persistent_workers=stay and workers > 0,
            timeout=_WORKER_TIMEOUT if workers > 0 else 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # the loader draws a number: not from the generator of the training process
            **settings,
        )
