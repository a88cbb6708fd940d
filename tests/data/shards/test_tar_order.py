"""One shard set, several ways to read it: the order of the samples is the same for any number of workers and ranks."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from limoe.data import datamodule
from limoe.data.datamodule import PairDataModule
from limoe.data.images.transforms import EvalTransform, TrainTransform
from limoe.data.shards.tar_shards import TarShards
from limoe.data.text.tokenizers import ByteBPE
from tests.helpers.shards import samples, write_tar

SIZES = (7, 1, 12, 9)  # 29 samples: 4 joint batches of 6, 5 samples are left over


@pytest.fixture
def root(tmp_path: Path) -> str:
    for shard, size in enumerate(SIZES):
        write_tar(tmp_path / f"train-{shard}.tar", samples(*(f"{shard}-{i}" for i in range(size))))
    return str(tmp_path)


def batches(root: str, *, workers: int = 0, batch_size: int = 6, epoch: int = 1) -> list[Any]:
    """Keys and images of every batch of one epoch."""
    data = TarShards(root=root, split="train")
    module = PairDataModule(
        train=data,
        val=None,
        tokenizer=ByteBPE(vocab_size=300, length=8, max_captions=100),
        train_transform=TrainTransform(image_size=4, min_scale=0.5, flip=0.5, jitter=0.2),
        eval_transform=EvalTransform(image_size=4),
        batch_size=batch_size,
        num_workers=workers,
        seed=3,
    )
    module.load_state_dict({**module.state_dict(), "epoch": epoch})
    return [
        ([data.describe(i).key for i in batch.sample.tolist()], batch.images.sum((1, 2, 3)).tolist())
        for batch in module.train_dataloader()
    ]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker:UserWarning")  # a machine with few cores
def test_any_number_of_workers_gives_the_same_batches(root: str) -> None:
    alone = batches(root)
    assert len(alone) == 4
    assert len({key for keys, _ in alone for key in keys}) == 24
    assert batches(root, workers=1) == alone
    assert batches(root, workers=4) == alone
    assert batches(root, epoch=2) != alone


def test_two_ranks_share_the_batches_of_one(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = batches(root)
    ranks = []
    for rank in range(2):
        monkeypatch.setattr(datamodule, "rank", partial(int, rank))
        monkeypatch.setattr(datamodule, "world_size", partial(int, 2))
        ranks.append(batches(root, batch_size=3))
    assert [len(rank) for rank in ranks] == [4, 4]
    for batch, first, second in zip(alone, *ranks, strict=True):
        joint = sorted(zip(first[0] + second[0], first[1] + second[1], strict=True))
        assert joint == sorted(zip(*batch, strict=True))
        # Rank r takes every second place of the joint order.
        assert batch[0][0::2] == first[0]
        assert batch[0][1::2] == second[0]
