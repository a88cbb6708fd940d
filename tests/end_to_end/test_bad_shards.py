"""A set of shards with 2 % bad images: trained on, or stopped, through the library and as a user types it."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from limoe.callbacks.bad_samples import BadSampleCount
from limoe.data.datamodule import PairDataModule
from limoe.data.images.transforms import EvalTransform, TrainTransform
from limoe.data.shards.tar_shards import TarShards
from limoe.data.text.tokenizers import ByteBPE
from limoe.errors import DataError
from tests.helpers.commands import limoe
from tests.helpers.shards import Files, png, write_tar

SIZE, BROKEN = 200, (20, 70, 120, 170)
COLOURS = ("red", "green", "blue", "white", "black")

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train-0000.tar` with four images that end too early, and a good `val-0000.tar`."""
    folder = tmp_path_factory.mktemp("shards")
    write_tar(folder / "train-0000.tar", squares(SIZE, broken=BROKEN))
    write_tar(folder / "val-0000.tar", squares(20))
    return folder


def squares(count: int, *, broken: tuple[int, ...] = ()) -> Files:
    files = []
    for number in range(count):
        colour = COLOURS[number % len(COLOURS)]
        image = png(colour, 16)[: -30 if number in broken else None]
        files += [(f"{number:04d}.png", image), (f"{number:04d}.txt", f"a {colour} square".encode())]
    return files


class Idle(LightningModule):
    """Counts what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.samples: list[int] = []

    def training_step(self, batch: Any, batch_idx: Any) -> Any:
        self.samples += batch.sample.tolist()
        return self.weight * batch.images.mean()

    def validation_step(self, batch: Any, batch_idx: Any) -> None:
        assert batch.bad == ()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(root: Path, *, num_workers: int, max_bad_fraction: float, on_bad: str = "replace") -> tuple[Idle, Trainer]:
    """Three epochs: each read meets the four bad images once, or oftener where one is tried as a replacement."""
    data = PairDataModule(
        train=TarShards(root=str(root), split="train"),
        val=TarShards(root=str(root), split="val"),
        tokenizer=ByteBPE(vocab_size=300, length=8, max_captions=1000),
        train_transform=TrainTransform(image_size=16, min_scale=1.0, flip=0.0, jitter=0.0),
        eval_transform=EvalTransform(image_size=16),
        batch_size=20,
        num_workers=num_workers,
        seed=0,
        on_bad=on_bad,
        max_bad_fraction=max_bad_fraction,
    )
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[BadSampleCount()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    module = Idle()
    trainer.fit(module, datamodule=data)
    return module, trainer


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_few_bad_images_are_replaced(root: Path, num_workers: int) -> None:
    module, trainer = train(root, num_workers=num_workers, max_bad_fraction=0.05)
    assert len(module.samples) == 3 * SIZE
    assert not set(BROKEN) & set(module.samples)
    assert set(range(SIZE)) - set(module.samples) == set(BROKEN)
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    replaced = data.bad_samples.replaced.total
    assert replaced >= 3 * len(BROKEN)
    assert trainer.callback_metrics["train/bad_samples"] == replaced


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_bad_images_stop_the_run(root: Path, num_workers: int) -> None:
    # 0.5 % of 1,000, the least number the share is taken of, are 5: the sixth is one too many.
    with pytest.raises(DataError, match=r"^6 of \d+ samples read so far are bad \(bad_image 6\)") as error:
        train(root, num_workers=num_workers, max_bad_fraction=0.005)
    _, _, *rows = error.value.details.splitlines()
    assert {row.split()[1] for row in rows} == {f"{number:04d}" for number in BROKEN}
    assert all(row.startswith(f"{root}/train-0000.tar  ") and "image file is truncated" in row for row in rows)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_raise_names_shard_key_and_reason(root: Path, num_workers: int) -> None:
    with pytest.raises(DataError, match=rf"^{root}/train-0000\.tar: '0\d\d0': its image .*truncated$"):
        train(root, num_workers=num_workers, max_bad_fraction=1.0, on_bad="raise")


def command(root: Path, *, folder: str, max_bad_fraction: float) -> list[str]:
    small = "model=limoe_tiny model.width=32 model.num_heads=2 model.mlp_dim=64 model.image_size=16 model.patch_size=8"
    run = "eval=none report=false trainer.max_steps=15 trainer.log_every_n_steps=1 trainer.val_check_interval=null"
    return [
        "train",
        "data=emoji",
        f"data.root={root}",
        "data.batch_size=40",
        "data.num_workers=2",
        *small.split(),
        *run.split(),
        f"data.max_bad_fraction={max_bad_fraction}",
        f"hydra.run.dir={folder}",
    ]


def test_the_command_stops_with_one_line_and_a_table(root: Path, tmp_path: Path) -> None:
    """Of a batch of 40 all are counted at once: after the sixth bad image a seventh."""
    done = limoe(*command(root, folder="run", max_bad_fraction=0.005), cwd=tmp_path, code=2)
    message, heading, titles, *rows = done.stderr.strip().splitlines()
    assert message.startswith("limoe: error: ") and "are bad (bad_image 7), more than data.max_bad_f" in message
    assert (heading, titles.split()) == ("The first 4 of them:", ["place", "key", "reason"])
    assert sorted(row.split()[1] for row in rows) == [f"{number:04d}" for number in BROKEN]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["bad_samples"]) == ("failed", {"replaced": {"bad_image": 7}})


@pytest.mark.slow
def test_the_command_records_what_it_replaced(root: Path, tmp_path: Path) -> None:
    done = limoe(*command(root, folder="run", max_bad_fraction=0.05), cwd=tmp_path)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    count = record["bad_samples"]["replaced"]["bad_image"]
    assert count >= 3 * len(BROKEN)
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if "bad samples" in line]
    # 15 batches of 40, and the 20 of the validation at the end of each of three epochs
    assert line.startswith(f"bad samples replaced, of {660 + count} read: {count} (bad_image {count}), first {root}")
    with (tmp_path / "run" / "csv" / "metrics.csv").open() as file:
        logged = [row["train/bad_samples"] for row in csv.DictReader(file)]
    assert float([value for value in logged if value][-1]) == count
