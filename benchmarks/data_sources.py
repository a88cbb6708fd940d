"""What is compared: every source by name, and how to get batches of training tensors out of it.

All sources decode, augment and tokenize with the same functions, so that the figures differ by the reading alone.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

from torch.utils.data import DataLoader

from benchmarks.data_sets import Stored, write_folder, write_table
from limoe.data.datamodule import PairDataModule
from limoe.data.images.decoding import decode_rgb
from limoe.data.images.transforms import EvalTransform, TrainTransform
from limoe.data.loading import BatchCollate, Example
from limoe.data.scenes.synthetic import SyntheticScenes
from limoe.data.shards.tar_shards import TarShards
from limoe.data.text.tokenizers import ByteBPE
from limoe.types import PairDataset

MAX_FILES = 20_000  # pairs of the sources that are not tar shards
_MIXED = 1000  # samples among which plain webdataset draws the next one


@dataclass(frozen=True)
class Setting:
    """The generated pairs and how they are read."""

    folder: Path
    content: list[Stored]
    shards: Path
    size: int
    image_size: int
    batch_size: int

    @property
    def small_size(self) -> int:
        return min(self.size, MAX_FILES)

    @cached_property
    def tokenizer(self) -> ByteBPE:
        return ByteBPE(vocab_size=400, length=16, max_captions=500)

    @property
    def transform(self) -> TrainTransform:
        return TrainTransform(image_size=self.image_size, min_scale=0.6, flip=0.5, jitter=0.2)


def loader(source: PairDataset, setting: Setting, *, workers: int) -> Iterable:
    """The training batches of `limoe train`."""
    module = PairDataModule(
        train=source,
        val=None,
        tokenizer=setting.tokenizer,
        train_transform=setting.transform,
        eval_transform=EvalTransform(image_size=setting.image_size),
        batch_size=setting.batch_size,
        num_workers=workers,
        seed=0,
    )
    module.tokenizer = setting.tokenizer.fit(pair.caption for pair in setting.content)
    return module.train_dataloader()


def tar(setting: Setting) -> PairDataset:
    return TarShards(root=str(setting.shards), split="train")


def table(setting: Setting) -> PairDataset:
    from limoe.data.sources.table import Table

    path = setting.folder / "pairs.parquet"
    write_table(path, setting.content, size=setting.small_size)
    return Table(path=str(path), image_column="image", caption_column="caption", key_column="key")


def folder(setting: Setting) -> PairDataset:
    from limoe.data.sources.image_folder import ImageFolder

    root = setting.folder / "files"
    write_folder(root, setting.content, size=setting.small_size)
    return ImageFolder(root=str(root), captions="txt")


def synthetic(setting: Setting) -> PairDataset:
    return SyntheticScenes(split="train", size=setting.small_size, image_size=setting.image_size, seed=0)


# A new source of pairs is one line here.
INDEXED: dict[str, Callable[[Setting], PairDataset]] = {
    "tar": tar,
    "table": table,
    "folder": folder,
    "synthetic": synthetic,
}
STREAMED = "webdataset"
NAMES = (*INDEXED, STREAMED)


def opened(name: str, setting: Setting) -> Callable[[int], Iterable]:
    """workers -> batches. Raises `ImportError` where a package is missing."""
    if name == STREAMED:
        return webdataset(setting)
    source = INDEXED[name](setting)
    return lambda workers: loader(source, setting, workers=workers)


def webdataset(setting: Setting) -> Callable[[int], Iterable]:
    """The usual pipeline of the library: shards shuffled, a shuffle buffer, batches made by the workers."""
    import webdataset as wds

    paths = sorted(map(str, setting.shards.glob("*.tar")))
    collate = BatchCollate(setting.tokenizer.fit(pair.caption for pair in setting.content))
    transform = setting.transform

    def example(sample: dict) -> Example:
        image = sample["png"] if "png" in sample else sample["jpg"]
        return Example(transform(decode_rgb(image), Random(sample["__key__"])), sample["txt"].decode(), 0)

    def batches(workers: int) -> DataLoader:
        pipeline = wds.WebDataset(paths, shardshuffle=len(paths), empty_check=False)
        pipeline = (
            pipeline.shuffle(_MIXED, initial=_MIXED).map(example).batched(setting.batch_size, collation_fn=collate)
        )
        return DataLoader(pipeline, batch_size=None, num_workers=workers)

    return batches
