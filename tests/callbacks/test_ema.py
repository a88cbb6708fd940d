"""The moving average by hand, in validation, in checkpoints, after a resume, and in `limoe eval`'s hands."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from limoe.callbacks.ema import Ema
from limoe.losses.auxiliary.base import AuxLossSet
from tests.helpers.builders import Batches, quiet_trainer, tiny_batch, tiny_model
from tests.helpers.training import module


class Watch(L.Callback):
    """One weight after every step, and what validation and its tasks see of it."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.validated: list[float] = []
        self.tasks: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.steps.append(value(pl_module))

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.validated.append(value(pl_module))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.tasks.append(value(pl_module))


def value(lit: Any) -> float:
    return lit.model.logit_scale.item()


def train(folder: Path, *callbacks: L.Callback, steps: int = 4, resume: str | None = None, **settings: Any) -> Any:
    torch.manual_seed(0)
    lit = module(model=tiny_model(router={"noise_std": 0.0}), aux_losses=AuxLossSet({}))
    quiet = {"val_check_interval": 2, "num_sanity_val_steps": 0, "enable_checkpointing": True, **settings}
    trainer = quiet_trainer(folder, max_steps=steps, callbacks=list(callbacks), **quiet)
    trainer.fit(lit, Batches([tiny_batch()] * 4), Batches([tiny_batch(seed=9)]), ckpt_path=resume, weights_only=True)
    return lit


def saver(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", save_top_k=-1, save_on_train_epoch_end=False)


@pytest.mark.parametrize("watch_first", [True, False])
def test_validation_and_its_tasks_see_the_average_in_any_order(tmp_path: Path, watch_first: bool) -> None:
    """decay 0.75: the average starts as the first weights, then a <- 0.75 a + 0.25 w."""
    watch, ema = Watch(), Ema(decay=0.75)
    lit = train(tmp_path, *((watch, ema) if watch_first else (ema, watch)), saver(tmp_path))
    w = watch.steps
    averages = [w[0]]
    for weight in w[1:]:
        averages.append(0.75 * averages[-1] + 0.25 * weight)
    assert len({*w}) == 4
    assert watch.validated == pytest.approx([averages[1], averages[3]], abs=1e-6)
    assert watch.tasks == pytest.approx(watch.validated, abs=1e-9)
    assert value(lit) == pytest.approx(averages[3], abs=1e-6)  # what is left after training


def test_training_does_not_notice(tmp_path: Path) -> None:
    alone, beside = Watch(), Watch()
    train(tmp_path / "a", alone, saver(tmp_path / "a"))
    train(tmp_path / "b", Ema(decay=0.5), beside, saver(tmp_path / "b"))
    assert alone.steps == beside.steps


def test_until_the_start_the_average_is_the_weights(tmp_path: Path) -> None:
    watch = Watch()
    train(tmp_path, watch, Ema(decay=0.75, start_step=2), saver(tmp_path))
    w = watch.steps
    assert watch.validated[0] == w[1]
    assert watch.validated[1] == pytest.approx(0.75 * (0.75 * w[1] + 0.25 * w[2]) + 0.25 * w[3], abs=1e-6)


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:You.re resuming from")
def test_a_checkpoint_holds_both_and_a_resumed_run_ends_the_same(tmp_path: Path) -> None:
    watch = Watch()
    whole = train(tmp_path / "whole", Ema(decay=0.75), watch, saver(tmp_path / "whole"))
    saved = torch.load(tmp_path / "whole" / "step=2.ckpt", weights_only=True)
    assert saved["current_model_state"]["model.logit_scale"].item() == watch.steps[1]
    average = 0.75 * watch.steps[0] + 0.25 * watch.steps[1]
    assert saved["state_dict"]["model.logit_scale"].item() == pytest.approx(average, abs=1e-6)
    newest = str(tmp_path / "whole" / "step=2.ckpt")
    resumed = train(tmp_path / "whole", Ema(decay=0.75), saver(tmp_path / "whole"), resume=newest)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name


def test_a_crash_in_validation_leaves_the_weights_in_the_checkpoint(tmp_path: Path) -> None:
    class Crash(L.Callback):
        def on_validation_batch_end(self, *_: Any) -> None:
            raise RuntimeError("crash")

    watch = Watch()
    save = ModelCheckpoint(tmp_path, filename="crashed", save_on_exception=True)
    with pytest.raises(RuntimeError, match="crash"):
        train(tmp_path, watch, Ema(decay=0.75), Crash(), save)
    saved = torch.load(next(tmp_path.glob("*.ckpt")), weights_only=True)
    assert saved["current_model_state"]["model.logit_scale"].item() == watch.steps[1]


def test_counters_are_copied_and_floats_averaged() -> None:
    ema = Ema(decay=0.5)
    floats, whole = [torch.tensor([2.0])], [torch.tensor([2])]
    ema._update(floats, [torch.tensor([4.0])], 1)
    ema._update(whole, [torch.tensor([5])], 1)
    assert floats[0].item() == 3 and whole[0].item() == 5


@pytest.mark.parametrize(("key", "bad"), [("decay", 1.0), ("decay", -0.1), ("start_step", -1)])
def test_bad_settings(key: str, bad: float) -> None:
    with pytest.raises(ValueError, match=rf"^{key} must be .*, got {bad}"):
        Ema(**{key: bad})
