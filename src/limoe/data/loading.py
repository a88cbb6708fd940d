"""Examples and batches made from the pairs of a source, in the loader workers."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from random import Random
from typing import NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from limoe.data.bad_samples import BadSample, BadSampleError
from limoe.data.text.text_tokenizer import TextTokenizer
from limoe.errors import DataError
from limoe.types import Batch, Pair, PairDataset


class Example(NamedTuple):
    """One transformed image with one of its captions; `position` is its index in the source.

    `bad` lists the samples that it replaces.
    """

    image: Tensor
    caption: str
    position: int
    bad: tuple[BadSample, ...] = ()


def read_pair(pairs: PairDataset, index: int, *, stand_ins: int, seed: str) -> tuple[Pair, int, tuple[BadSample, ...]]:
    """Pair `index`, or the first readable one of `stand_ins` replacements; its position; the unreadable ones.

    Each replacement is a pure function of `seed` and the number of the attempt: the same in every process.
    Raises `DataError` with place, key and reason of the last one if none can be read.
    """
    bad: list[BadSample] = []
    position = index
    while True:
        try:
            return pairs[position], position, tuple(bad)
        except BadSampleError as error:
            if len(bad) == stand_ins:
                in_a_row = f"{stand_ins + 1} samples in a row are bad, the last is " if stand_ins else ""
                raise DataError(f"{in_a_row}{error}") from error
            position = Random(f"{seed}/{len(bad)}").randrange(len(pairs))
            bad.append(error.sample)


@dataclass
class TrainExamples(Dataset[Example]):
    """Training examples: caption choice and augmentation are a pure function of (seed, epoch, index).

    So are the replacements of a sample that cannot be read, of which at most `stand_ins` are tried.
    """

    pairs: PairDataset
    _: KW_ONLY
    transform: Callable[[Image, Random], Tensor]
    seed: int
    stand_ins: int = 0

    def __getitem__(self, place: tuple[int, int]) -> Example:
        epoch, index = place
        seed = f"{self.seed}/{epoch}/{index}"
        pair, position, bad = read_pair(self.pairs, index, stand_ins=self.stand_ins, seed=seed)
        rng = Random(seed)
        caption = rng.choice(pair.captions)
        return Example(self.transform(pair.image, rng), caption, position, bad)


@dataclass
class EvalExamples(Dataset[Example]):
    """Evaluation examples: the first caption and the image without augmentation."""

    pairs: PairDataset
    _: KW_ONLY
    transform: Callable[[Image], Tensor]
    stand_ins: int = 0

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        pair, position, bad = read_pair(self.pairs, index, stand_ins=self.stand_ins, seed=f"evaluation/{index}")
        return Example(self.transform(pair.image), pair.captions[0], position, bad)


class BatchCollate:
    """Stack the images and tokenize all captions of a batch in one call."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, examples: list[Example]) -> Batch:
        ids, mask = self.tokenizer.encode([example.caption for example in examples])
        index = torch.tensor([example.position for example in examples])
        bad = tuple(sample for example in examples for sample in example.bad)
        return Batch(torch.stack([example.image for example in examples]), ids, mask, index, bad)


def stack_images(examples: list[Example]) -> Tensor:
    """The images of the examples, [B, 3, h, w]."""
    return torch.stack([example.image for example in examples])


class ResumableLoader(DataLoader):
    """A loader without state of its own: the data module keeps the position. Lightning requires these methods."""

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        pass
