"""Batches and their order; above all: a resumed run sees exactly the batches that the first one had left."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from limoe.data.datamodule import PairDataModule
from limoe.data.images.transforms import EvalTransform, TrainTransform
from limoe.data.pairs import PairSubset
from limoe.data.scenes.synthetic import SyntheticScenes
from limoe.data.text.tokenizers import ByteBPE
from limoe.errors import DataError
from limoe.types import Batch
from tests.helpers.faulty import FaultyScenes, broken_sample

scenes = partial(SyntheticScenes, image_size=16, seed=0)
BATCHES = 5  # 21 scenes in batches of 4


def module(**settings: Any) -> PairDataModule:
    defaults = {
        "train": scenes(split="train", size=21),
        "val": scenes(split="val", size=11),
        "tokenizer": ByteBPE(vocab_size=300, length=12, max_captions=1000),
        "train_transform": TrainTransform(image_size=16, min_scale=0.6, flip=0.5, jitter=0.1),
        "eval_transform": EvalTransform(image_size=16),
        "batch_size": 4,
        "num_workers": 0,
        "seed": 0,
    }
    return PairDataModule(**(defaults | settings))


def fingerprint(batch: Batch) -> tuple[list[int], float, float]:
    return batch.sample.tolist(), batch.images.double().sum().item(), batch.text_ids.sum().item()


class Recorder(LightningModule):
    """Notes what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Any] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert batch.bad == ()
        self.seen.append((batch_idx, *fingerprint(batch)))
        return self.weight * batch.images.mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert len(batch.sample) == 4

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(
    folder: Path,
    *,
    data: PairDataModule,
    steps: int,
    ckpt_path: Path | None = None,
    save: bool = False,
    callbacks: Sequence[Any] = (),
    **settings: int,
) -> list[Any]:
    if save:
        callbacks = [ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")]
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **settings,
    )
    recorder = Recorder()
    trainer.fit(recorder, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return recorder.seen


pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning",
    "ignore:.*exists and is not empty:UserWarning",
    "ignore:The dirpath has changed from:UserWarning",
    "ignore:Be aware that when using `ckpt_path`, callbacks:UserWarning",
)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: Any) -> tuple[Any, ...]:
    """What 12 steps (2.4 epochs) without interruption see, and a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder, data=module(), steps=12, save=True)


def test_an_uninterrupted_run_sees_each_epoch_in_a_new_order(whole_run: tuple[Any, ...]) -> None:
    _, seen = whole_run
    assert [batch_idx for batch_idx, *_ in seen] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    samples = [batch[1] for batch in seen]
    epochs = [[index for batch in samples[i : i + BATCHES] for index in batch] for i in (0, BATCHES)]
    assert [len(set(epoch)) for epoch in epochs] == [20, 20]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("step", range(1, 12))
def test_resuming_after_any_step_is_exact(whole_run: tuple[Any, ...], step: int) -> None:
    folder, seen = whole_run
    again = train(folder, data=module(), steps=12, ckpt_path=folder / f"step={step}.ckpt")
    assert again == seen[step:]


@pytest.mark.parametrize("step", [3, 5, 7])
def test_resuming_with_workers_is_exact(whole_run: tuple[Any, ...], step: int) -> None:
    folder, seen = whole_run
    assert train(folder, data=module(num_workers=2), steps=12, ckpt_path=folder / f"step={step}.ckpt") == seen[step:]


@pytest.mark.parametrize(("first", "second"), [(2, 4), (3, 5), (3, 8), (5, 7), (5, 10), (7, 10)])
def test_resuming_a_resumed_run_is_exact(whole_run: tuple[Any, ...], tmp_path: Path, first: int, second: int) -> None:
    folder, seen = whole_run
    train(tmp_path, data=module(), steps=second, ckpt_path=folder / f"step={first}.ckpt", save=True)
    assert train(tmp_path, data=module(), steps=12, ckpt_path=tmp_path / f"step={second}.ckpt") == seen[second:]


def test_workers_and_a_second_fit_change_nothing(whole_run: tuple[Any, ...], tmp_path: Path) -> None:
    _, seen = whole_run
    data = module(num_workers=2)
    assert train(tmp_path, data=data, steps=7) == seen[:7]
    assert train(tmp_path, data=data, steps=3) == seen[:3]


def test_resuming_between_validations_of_an_epoch_is_exact(tmp_path: Path) -> None:
    settings = {"steps": 8, "val_check_interval": 2}
    seen = train(tmp_path, data=module(), save=True, **settings)
    for step in (2, 3, 4, 5, 6):
        again = train(tmp_path, data=module(), ckpt_path=tmp_path / f"step={step}.ckpt", **settings)
        assert again == seen[step:], step


@pytest.mark.parametrize("length", [{"steps": 9}, {"steps": -1, "max_epochs": 3}])
@pytest.mark.parametrize("at_train_end", [True, False])
def test_resuming_from_the_end_of_an_epoch_is_exact(tmp_path: Path, at_train_end: bool, length: dict[str, int]) -> None:
    """Saved when training of the epoch ends, or after its validation; with fewer batches than there are."""
    settings = {**length, "limit_train_batches": 3}

    def run(folder: Path, ckpt_path: str | None = None) -> Any:
        saver = ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}", save_on_train_epoch_end=at_train_end)
        return train(folder, data=module(), callbacks=[saver], ckpt_path=ckpt_path, **settings)

    seen = run(tmp_path / "whole")
    assert len(seen) == 9
    assert run(tmp_path / "from1", tmp_path / "whole" / "epoch=1.ckpt") == seen[6:]
    assert run(tmp_path / "from0", tmp_path / "whole" / "epoch=0.ckpt") == seen[3:]
    again = sorted((tmp_path / "from0").glob("*.ckpt"))[-2]  # a run resumed at an epoch's end ends epochs well, too
    assert run(tmp_path / "again", again) == seen[6:]


def test_accumulation_resumes_exactly(tmp_path: Path) -> None:
    settings = {"steps": 5, "accumulate_grad_batches": 2}  # 3 steps per epoch of 5 batches: 2 + 2 + 1
    seen = train(tmp_path, data=module(), save=True, **settings)
    for step, batches in ((1, 2), (2, 4), (3, 5), (4, 7)):
        again = train(tmp_path, data=module(), ckpt_path=tmp_path / f"step={step}.ckpt", **settings)
        assert again == seen[batches:], step


def test_loading_leaves_the_generator_of_the_training_process_alone() -> None:
    data = module()
    data.fit_tokenizer()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.image_loader(data.val)):
        assert list(loader)
    assert torch.equal(state, torch.get_rng_state())


def test_validation_has_full_batches_of_plain_images() -> None:
    data = module()
    data.fit_tokenizer()
    batches = list(data.val_dataloader())
    assert [batch.sample.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7]]  # 11 scenes
    assert torch.equal(batches[1].images[0], EvalTransform(image_size=16)(data.val[4].image))
    assert torch.equal(batches[1].text_ids, data.tokenizer.encode([data.val[i].captions[0] for i in range(4, 8)])[0])


def test_a_small_validation_set_is_one_batch() -> None:
    data = module(val=scenes(split="val", size=3))
    assert [batch.sample.tolist() for batch in data.val_dataloader()] == [[0, 1, 2]]
    assert module(val=None).val_dataloader() == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_come_complete_and_in_order(num_workers: int) -> None:
    data = module(num_workers=num_workers)
    images = scenes(split="heldout", size=11)
    expected = torch.stack([EvalTransform(image_size=16)(images[i].image) for i in range(11)])
    for batch_size, sizes in ((None, [4, 4, 3]), (8, [8, 3])):
        batches = list(data.image_loader(images, batch_size))
        assert [len(batch) for batch in batches] == sizes
        assert torch.equal(torch.cat(batches), expected)


def test_a_given_tokenizer_is_not_trained_again() -> None:
    first = module()
    tokenizer = first.fit_tokenizer()
    assert first.tokenizer is tokenizer
    data = module(tokenizer=ByteBPE(vocab_size=280, length=5, max_captions=10))
    data.tokenizer = tokenizer
    assert next(iter(data.train_dataloader())).text_ids.shape == (4, 12)


BROKEN = {0, 3, 8}


def torn(**settings: float | str) -> PairDataModule:
    """Three of 21 samples cannot be read: of 20 read in an epoch about three."""
    return module(train=FaultyScenes(size=21, broken=BROKEN), **settings)


@pytest.fixture(scope="module")
def torn_run(tmp_path_factory: Any) -> tuple[Any, ...]:
    folder = tmp_path_factory.mktemp("torn")
    data = torn()
    return folder, train(folder, data=data, steps=12, save=True), data.bad_samples


def test_bad_samples_are_replaced_and_counted(torn_run: tuple[Any, ...]) -> None:
    _, seen, found = torn_run
    used = [index for _, batch, *_ in seen for index in batch]
    assert len(used) == 12 * 4
    assert not BROKEN & set(used)
    assert found.read == 12 * 4 + 2 * 8 + found.replaced.total  # two epochs end with 8 scenes of validation
    assert {sample.key for sample in found.replaced.first} == {"s0", "s3", "s8"}
    assert found.replaced.total >= 5  # an epoch leaves out one of 21: at least two of three in each of two epochs


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_neither_replacements_nor_counts(
    torn_run: tuple[Any, ...], tmp_path: Path, num_workers: int
) -> None:
    _, seen, found = torn_run
    data = torn(num_workers=num_workers)
    assert train(tmp_path, data=data, steps=12) == seen
    assert (data.bad_samples.replaced, data.bad_samples.read) == (found.replaced, found.read)


@pytest.mark.parametrize("step", [2, 5, 9])
def test_resuming_with_bad_samples_is_exact(torn_run: tuple[Any, ...], step: int) -> None:
    folder, seen, _ = torn_run
    assert train(folder, data=torn(), steps=12, ckpt_path=folder / f"step={step}.ckpt") == seen[step:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_bad_samples_end_the_run(tmp_path: Path, num_workers: int) -> None:
    data = torn(num_workers=num_workers, max_bad_fraction=0.002)  # of 1,000 at least: the third ends it
    with pytest.raises(DataError, match=r"^[34] of \d+ samples read so far are bad \(bad_image [34]\)") as caught:
        train(tmp_path, data=data, steps=12)
    heading, titles, *lines = caught.value.details.splitlines()
    assert (heading, titles.split()) == (f"The first {len(lines)} of them:", ["place", "key", "reason"])
    assert {line.split()[1] for line in lines} <= {"s0", "s3", "s8"}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_raise_names_the_first_bad_sample(tmp_path: Path, num_workers: int) -> None:
    with pytest.raises(DataError) as caught:
        train(tmp_path, data=torn(num_workers=num_workers, on_bad="raise"), steps=12)
    assert str(caught.value) in {f"scenes: 's{i}': its image is torn" for i in BROKEN}


def test_validation_is_replaced_and_counted_too() -> None:
    data = module(val=FaultyScenes(size=8, broken={2}))
    first, again = (list(data.val_dataloader()) for _ in range(2))
    assert [batch.sample.tolist() for batch in first] == [batch.sample.tolist() for batch in again]
    assert first[0].bad == (broken_sample(2),)
    assert first[0].sample[2] != 2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_of_a_task_are_never_replaced(num_workers: int) -> None:
    loader = module(num_workers=num_workers).image_loader(FaultyScenes(size=8, broken={5}))
    with pytest.raises(DataError) as caught:
        list(loader)
    assert str(caught.value) == "scenes: 's5': its image is torn"


def test_images_that_a_task_leaves_out_are_told(caplog: pytest.LogCaptureFixture) -> None:
    data, images = module(), PairSubset(FaultyScenes(size=8, left_out=2), indices=[1, 2])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert len(next(iter(data.image_loader(images)))) == 2
    (line,) = caplog.messages
    assert line.startswith("evaluation data: bad samples left out: 2 (no_caption 2), first scenes: 'lost0'")


def test_samples_left_out_before_training_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = module(train=FaultyScenes(size=21, left_out=2, broken={1}), max_bad_fraction=0.1)
    with caplog.at_level(logging.WARNING):
        train(tmp_path, data=data, steps=5)
    assert data.bad_counts() == {"left_out": {"no_caption": 2}, "replaced": {"bad_image": 1}}
    told = [line.partition(",")[0] for line in caplog.messages if "bad samples" in line]
    assert told == ["training data: bad samples left out: 2 (no_caption 2)", "bad samples replaced"]
    assert module().bad_counts() == {}
    with pytest.raises(DataError, match=r"^2 of 23 training samples are bad"):
        train(tmp_path, data=module(train=FaultyScenes(size=21, left_out=2)), steps=5)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be > 0 (pairs per process), got 0"),
        ({"num_workers": -1}, ValueError, "num_workers must be >= 0, got -1"),
        ({"batch_size": 22}, DataError, "training data: 21 samples are fewer than data.batch_size=22; lower it"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, int], error: type[Any], message: str) -> None:
    with pytest.raises(error) as caught:
        module(**settings)
    assert str(caught.value) == message
