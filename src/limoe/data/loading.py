"""From a pair of a source to tensors: what loader workers do."""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from limoe.data.tokenizers import TextTokenizer
from limoe.types import Batch, PairDataset


class Example(NamedTuple):
    """One transformed picture with one of its captions; `position` is its index in the source."""

    image: Tensor
    caption: str
    position: int


class TrainExamples(Dataset[Example]):
    """Caption choice and augmentation are a pure function of (seed, epoch, index), whichever worker does them."""

    def __init__(self, pairs: PairDataset, *, transform: Callable[[Image, Random], Tensor], seed: int) -> None:
        self.pairs = pairs
        self.transform = transform
        self.seed = seed

    def __getitem__(self, place: tuple[int, int]) -> Example:
        epoch, index = place
        rng = Random(f"{self.seed}/{epoch}/{index}")
        pair = self.pairs[index]
        caption = rng.choice(pair.captions)
        return Example(self.transform(pair.image, rng), caption, index)


class EvalExamples(Dataset[Example]):
    """Always the first caption and the plain picture."""

    def __init__(self, pairs: PairDataset, *, transform: Callable[[Image], Tensor]) -> None:
        self.pairs = pairs
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        pair = self.pairs[index]
        return Example(self.transform(pair.image), pair.captions[0], index)


class BatchCollate:
    """Stacks pictures and tokenizes all captions of a batch in one call."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, examples: list[Example]) -> Batch:
        ids, mask = self.tokenizer.encode([example.caption for example in examples])
        index = torch.tensor([example.position for example in examples])
        return Batch(torch.stack([example.image for example in examples]), ids, mask, index)


def stack_pictures(examples: list[Example]) -> Tensor:
    """Only the pictures, [B, 3, h, w]."""
    return torch.stack([example.image for example in examples])


class ResumableLoader(DataLoader):
    """A loader whose position is kept elsewhere (by the data module); with these methods Lightning knows."""

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        pass
