"""The data module: sources, tokenizer and transforms to reproducible batches.

A training batch is a function of (seed, epoch, batch, rank, world size) alone: not of the number of workers or of
interruptions. The position inside an epoch is part of this module's state, which Lightning restores before it requests
the loader, so a resumed run continues with exactly the next batch.

The policy for samples that cannot be read is applied here, for every source.
"""

from collections.abc import Callable
from random import Random
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader

from limoe.data.bad_policy import BadSamplePolicy
from limoe.data.bad_samples import BadSamples, bad_of
from limoe.data.loading import BatchCollate, EvalExamples, ResumableLoader, TrainExamples, stack_images
from limoe.data.sampler import EpochSampler
from limoe.data.text.text_tokenizer import TextTokenizer
from limoe.data.text.tokenizers import TokenizerFactory
from limoe.errors import DataError, require_argument
from limoe.parallel.collectives import rank, world_size
from limoe.types import Batch, PairDataset

_WORKER_TIMEOUT = 300  # seconds without an answer of a worker that end the run


class PairDataModule(LightningDataModule):
    """Image-text pairs as batches. `batch_size`: pairs per process; `num_workers`: loader processes (0: none).

    `tokenizer_factory` is fitted to the training captions by `fit_tokenizer`, or when first needed; setting `tokenizer`
    beforehand (from a run's tokenizer.json) skips that. Evaluation needs neither `train` nor `val`. The trainer needs
    `use_distributed_sampler=False`.

    With `shuffle_block` a batch comes from that many consecutive samples, see `EpochSampler`.

    `on_bad="replace"` replaces a training or validation sample that cannot be read by another one, a pure function of
    seed, epoch and index; above a share of `max_bad_fraction` the run ends with a `DataError` that lists the first.
    `on_bad="raise"` ends it at the first one. Images of evaluation tasks are never replaced.
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
        on_bad: str = "replace",
        max_bad_fraction: float = 0.01,
        shuffle_block: int | None = None,
    ) -> None:
        super().__init__()
        require_argument(batch_size > 0, "batch_size", "> 0 (pairs per process)", batch_size)
        require_argument(num_workers >= 0, "num_workers", ">= 0", num_workers)
        is_block = shuffle_block is None or shuffle_block >= batch_size
        require_argument(is_block, "shuffle_block", f">= data.batch_size={batch_size}, or null", shuffle_block)
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
        self.on_bad = on_bad
        self.max_bad_fraction = max_bad_fraction
        self.shuffle_block = shuffle_block
        self.bad_samples = BadSamplePolicy(on_bad=on_bad, max_bad_fraction=max_bad_fraction)
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
            shuffle_block=self.shuffle_block,
        )
        examples = TrainExamples(
            self.train, transform=self.train_transform, seed=self.seed, stand_ins=self.bad_samples.stand_ins
        )
        return self._loader(
            ResumableLoader,
            examples,
            sampler=sampler,
            batch_size=self.batch_size,
            collate_fn=self._collate(),
            persistent=True,
        )

    def val_dataloader(self) -> DataLoader | list:
        """Full batches in a fixed order, equally many on every rank; a smaller last one would have fewer negatives."""
        if self.val is None:
            return []
        ranks = world_size()
        batch_size = min(self.batch_size, len(self.val) // ranks)
        if batch_size == 0:
            raise DataError(f"validation data: {len(self.val)} samples are fewer than the {ranks} processes")
        usable = len(self.val) // (batch_size * ranks) * batch_size * ranks
        examples = EvalExamples(self.val, transform=self.eval_transform, stand_ins=self.bad_samples.stand_ins)
        return self._loader(
            DataLoader,
            examples,
            sampler=range(rank(), usable, ranks),
            batch_size=batch_size,
            collate_fn=self._collate(),
            persistent=True,
        )

    def image_loader(self, images: PairDataset, batch_size: int | None = None) -> DataLoader:
        """Image tensors [b, 3, h, w] of all `images`, in their order, the same on every rank.

        An image that cannot be read ends the evaluation with a `DataError`, since a replacement would change the task.
        """
        self.bad_samples.warn_left_out(images, name="evaluation")
        examples = EvalExamples(images, transform=self.eval_transform)
        return self._loader(
            DataLoader,
            examples,
            sampler=range(len(images)),
            batch_size=self.batch_size if batch_size is None else batch_size,
            collate_fn=stack_images,
            persistent=False,
        )

    def setup(self, stage: str) -> None:
        """Reset the position and the counts of bad samples; the state of a checkpoint is loaded after this.

        Raises `DataError` if a source left out more samples than allowed.
        """
        if stage == "fit":
            self._epoch, self._batch = 0, 0
            self.bad_samples = BadSamplePolicy(on_bad=self.on_bad, max_bad_fraction=self.max_bad_fraction)
            for name, pairs in (("training", self.train), ("validation", self.val)):
                if pairs is not None:
                    self.bad_samples.check_left_out(pairs, name=name)

    def teardown(self, stage: str) -> None:
        self.bad_samples.finish()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Count bad samples and the position: at the end of an epoch Lightning's own counters are ambiguous."""
        if self.trainer is not None and self.trainer.training:
            self._batch += 1
            if self._batch >= self.trainer.num_training_batches:
                self._epoch, self._batch = self._epoch + 1, 0
        if not isinstance(batch, Batch):
            return batch
        self.bad_samples.count(batch.bad, good=len(batch.sample))
        return batch._replace(bad=())

    def state_dict(self) -> dict[str, int]:
        """The next batch of the training order."""
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._epoch, self._batch = int(state_dict["epoch"]), int(state_dict["batch"])

    def bad_counts(self) -> dict[str, dict[str, int]]:
        """Counts by kind of the samples left out by sources and of those replaced; without a group where none were."""
        left_out = BadSamples()
        for pairs in (self.train, self.val):
            left_out.merge(bad_of(pairs))
        groups = {"left_out": left_out, "replaced": self.bad_samples.replaced}
        return {name: dict(bad.counts) for name, bad in groups.items() if bad.total}

    def _collate(self) -> BatchCollate:
        return BatchCollate(self.tokenizer if self.tokenizer is not None else self.fit_tokenizer())

    def _loader(self, kind: type[DataLoader], examples: Any, *, persistent: bool, **settings: Any) -> DataLoader:
        workers = self.num_workers
        return kind(
            examples,
            num_workers=workers,
            persistent_workers=persistent and workers > 0,
            timeout=_WORKER_TIMEOUT if workers > 0 else 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # the loader draws a base seed, which must not advance the global generator
            **settings,
        )
