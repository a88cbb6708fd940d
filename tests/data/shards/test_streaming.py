from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch import Tensor

from limoe.data.images.transforms import EvalTransform, TrainTransform
from limoe.data.scenes.synthetic import SyntheticScenes
from limoe.data.shards.stream import ShardStream
from limoe.data.shards.streaming import StreamExamples, StreamingDataModule
from limoe.data.text.tokenizers import ByteBPE
from limoe.errors import DataError
from limoe.types import Batch
from tests.helpers.numbered_shards import png, sample, write_shards, write_tar

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning",
    "ignore:.*have no `validation_step`:UserWarning",
    "ignore:The dirpath has changed from:UserWarning",
    "ignore:Be aware that when using `ckpt_path`, callbacks:UserWarning",
    "ignore:.*exists and is not empty:UserWarning",
    "ignore:.*`IterableDataset` has `__len__` defined:UserWarning",
)


def module(shards: str, *, epoch_pairs: int = 20, shuffle: int = 1, **settings: int | str) -> StreamingDataModule:
    defaults = {
        "train": ShardStream(shards=shards, epoch_pairs=epoch_pairs, shuffle=shuffle, caption_pairs=10),
        "val": SyntheticScenes(split="val", size=4, image_size=8, seed=0),
        "tokenizer": ByteBPE(vocab_size=300, length=12, max_captions=1000),
        "train_transform": TrainTransform(image_size=4, min_scale=1.0, flip=0.0, jitter=0.0),
        "eval_transform": EvalTransform(image_size=4),
        "batch_size": 4,
        "num_workers": 0,
        "seed": 0,
    }
    return StreamingDataModule(**(defaults | settings))


def numbers(batch: Batch) -> list[int]:
    """The images' red channel, which says which sample it is: (x + 1) * 127.5."""
    return batch.images[:, 0, 0, 0].add(1).mul(127.5).round().int().tolist()


@pytest.fixture
def shards(tmp_path: Path) -> str:
    (tmp_path / "shards").mkdir()
    return write_shards(tmp_path / "shards", shards=4, each=5)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_epoch_has_full_batches_of_different_pairs(shards: str, num_workers: int) -> None:
    loader = module(shards, num_workers=num_workers).train_dataloader()
    assert len(loader) == 5  # 20 // 4
    batches = list(loader)
    assert [len(batch.sample) for batch in batches] == [4] * 5
    assert [len(set(numbers(batch))) for batch in batches] == [4] * 5
    assert len({place for batch in batches for place in batch.sample.tolist()}) == 20
    if num_workers == 0:  # with 2 one process reads 10 pairs for 3 batches, the other one 10 for 2
        assert sorted(number for batch in batches for number in numbers(batch)) == list(range(20))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_same_settings_give_the_same_batches(shards: str, num_workers: int) -> None:
    once, again = ([numbers(batch) for batch in module(shards, num_workers=num_workers, shuffle=8).train_dataloader()]
                   for _ in range(2))  # fmt: skip
    assert once == again
    other = [numbers(batch) for batch in module(shards, num_workers=num_workers, shuffle=8, seed=1).train_dataloader()]
    assert once != other


def test_ranks_read_different_shards_in_equal_steps(shards: str) -> None:
    settings = {"transform": EvalOnTrain(), "seed": 0, "batch_size": 2, "world_size": 2, "replace": True}
    stream = ShardStream(shards=shards, epoch_pairs=21, shuffle=1, caption_pairs=1)
    found = [[example.caption for example in StreamExamples(stream, rank=rank, **settings)] for rank in range(2)]
    assert list(map(len, found)) == [10, 10]  # 21 // (2 * 2) batches of 2
    assert sorted(found[0] + found[1]) == sorted(f"number {n}" for n in range(20))


class EvalOnTrain:
    def __call__(self, image: Image.Image, rng: Random) -> Tensor:
        return EvalTransform(image_size=4)(image)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_samples_travel_with_the_batch(tmp_path: Path, num_workers: int) -> None:
    for shard in range(2):
        broken = [("x.png", b"broken"), ("x.txt", b"x")]
        write_tar(tmp_path / f"{shard}.tar", [*broken, *sample(4 * shard), *sample(4 * shard + 1)])
    pattern = str(tmp_path / "*.tar")
    data = module(pattern, epoch_pairs=8, num_workers=num_workers)
    bad = [one for batch in data.train_dataloader() for one in batch.bad]
    assert {(place[-5:], key, kind) for place, key, kind, _ in bad} == {
        ("0.tar", "x", "unknown_format"),
        ("1.tar", "x", "unknown_format"),
    }
    with pytest.raises(DataError, match=r"[01]\.tar: .*x.*: its image"):
        list(module(pattern, epoch_pairs=8, num_workers=num_workers, on_bad="raise").train_dataloader())


class Recorder(LightningModule):
    """Notes what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Any] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append((batch_idx, numbers(batch)))
        return self.weight * batch.images.mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder: Path, data: StreamingDataModule, *, steps: int, ckpt_path: Path | None = None) -> list[Any]:
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    recorder = Recorder()
    trainer.fit(recorder, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return recorder.seen


def test_training_takes_the_same_steps_per_epoch_also_when_resumed(shards: str, tmp_path: Path) -> None:
    seen = train(tmp_path / "whole", module(shards), steps=12)
    assert [batch_idx for batch_idx, _ in seen] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    epochs = [[number for _, batch in seen[i : i + 5] for number in batch] for i in (0, 5)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(20))] * 2
    assert epochs[0] != epochs[1]
    resumed = train(tmp_path / "again", module(shards), steps=12, ckpt_path=tmp_path / "whole" / "step=7.ckpt")
    assert [batch_idx for batch_idx, _ in resumed] == [2, 3, 4, 0, 1]
    assert resumed[3:] == seen[10:]  # the next epoch is as it would have been


def test_the_tokenizer_reads_the_first_captions(shards: str) -> None:
    data = module(shards)
    words = data.fit_tokenizer()
    assert data.tokenizer is words
    ids, _ = words.encode(["number 7"])
    assert words.decode(ids[0].tolist()).startswith("number 7")
    assert len(next(iter(data.val_dataloader())).sample) == 4


def test_too_few_shards_or_pairs_are_named(shards: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.epoch_pairs=3 is less than one batch of 4 on each of 1 processes"):
        module(shards, epoch_pairs=3).train_dataloader()
    one = str(tmp_path / "shards" / "train-0.tar")
    with pytest.raises(
        DataError, match=r"1 shards are fewer than 1 processes x 2 loader processes; lower data\.num_wor"
    ):
        list(module(one, num_workers=2).train_dataloader())


def test_nothing_but_bad_samples_ends(tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", [member for n in range(9) for member in ((f"{n}.png", png()), (f"{n}.txt", b" "))])
    data = module(str(tmp_path / "t.tar"))
    data.tokenizer = module(write_shards(tmp_path, shards=1, each=1)).fit_tokenizer()
    with pytest.raises(
        DataError, match=r"1,001 samples in a row are bad, the last is .*t\.tar: .*its caption is empty"
    ):
        list(data.train_dataloader())
