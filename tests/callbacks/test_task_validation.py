"""Evaluation tasks and the callbacks that run them, with a model whose features are known."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor

from limoe.callbacks import progress as progress_module
from limoe.callbacks.base import TaskCallback
from limoe.callbacks.progress import Progress, shown
from limoe.callbacks.sample_predictions import SamplePredictions, spread
from limoe.callbacks.task_validation import FewShotValidation, RetrievalValidation, ZeroShotValidation
from limoe.data.tasks.kinds import FewShotTask, LabelledImages, LinearProbeTask, Task, ZeroShotTask
from limoe.errors import DataError
from limoe.evaluation.encode import FeatureExtractor
from limoe.evaluation.tasks import evaluate_task, task_chance
from limoe.types import Pair
from tests.helpers.colors import (
    COLORS,
    ColorData,
    ColorModel,
    Images,
    few_shot_task,
    labelled,
    retrieval_task,
    zero_shot_task,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),  # on machines with more cores
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]


class CountedImages(Images):
    """Notes which images are read."""

    def __init__(self, colors: list[str], read: set[int]) -> None:
        super().__init__(colors)
        self.read = read

    def __getitem__(self, index: int) -> Pair:
        self.read.add(index)
        return super().__getitem__(index)


class ColorModule(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = ColorModel()

    def training_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        loss = self.model.encode_image(batch).sum()
        self.log("train/loss", loss, prog_bar=True)
        self.log("router/text/success_rate", 0.875, prog_bar=True)
        return {"loss": loss}

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss", self.model.encode_image(batch).sum())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def with_tasks(callback: TaskCallback, tasks: Mapping[str, Task]) -> TaskCallback:
    callback.use_tasks(tasks)
    return callback


def metrics_of(task: Task, *, batch_size: int = 256) -> dict[str, float]:
    return evaluate_task(FeatureExtractor(ColorModel(), ColorData(), batch_size=batch_size), task).compute()


class Fit(NamedTuple):
    trainer: L.Trainer
    validations: list[dict[str, float]]  # what was known after each one


class Spy(L.Callback):
    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seen.append({key: value.item() for key, value in trainer.callback_metrics.items() if "zeroshot" in key})


def fit(tmp_path: Path, *callbacks: L.Callback, **settings: int) -> Fit:
    spy = Spy()
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=[*callbacks, spy],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(callback, Progress) for callback in callbacks),
        check_val_every_n_epoch=None,
        **({"max_steps": 6, "val_check_interval": 2, "limit_val_batches": 1, "num_sanity_val_steps": 0} | settings),
    )
    trainer.fit(ColorModule(), datamodule=ColorData())
    return Fit(trainer, spy.seen)


def test_zero_shot_counts_by_hand() -> None:
    task = zero_shot_task()
    found = metrics_of(task, batch_size=3)
    # 3 of 4 right. Class mean: red 1/1, blue 1/2, black 1/1; "green" has no image and stays out: 2.5 / 3.
    assert found == pytest.approx({"zeroshot_top1": 0.75, "zeroshot_top5": 1.0, "zeroshot_class_mean": 2.5 / 3})
    assert task_chance(task) == {"zeroshot_top1": 0.25, "zeroshot_top5": 1.0, "zeroshot_class_mean": 0.25}


def test_class_mean_leaves_out_a_class_without_images_that_was_predicted() -> None:
    images = Images(["red", "green", "blue"])
    task = ZeroShotTask(images, [0, 0, 2], ["red", "green", "blue"], ["{}"])
    # Red: 1 of 2 (the other is taken for green). Blue: 1 of 1. Green has none: (1/2 + 1) / 2, not / 3.
    assert metrics_of(task)["zeroshot_class_mean"] == pytest.approx(0.75)


def test_two_classes_of_one_name_are_never_right() -> None:
    task = ZeroShotTask(Images(["red", "blue", "red"]), [0, 1, 2], ["red", "blue", "red"], ["{}"])
    # Both "red" images tie with the other "red": wrong at 1, right at 2.
    found = metrics_of(task)
    assert found == pytest.approx({"zeroshot_top1": 1 / 3, "zeroshot_top5": 1.0, "zeroshot_class_mean": 1 / 3})


def test_retrieval_task() -> None:
    task = retrieval_task()
    assert set(metrics_of(task).values()) == {1.0}
    # Text to image: "red" has 2 of 3 images, "blue" 1 of 3; image to text: 1 of 2.
    assert task_chance(task)["t2i_r1"] == pytest.approx(1 / 2)
    assert task_chance(task)["i2t_r1"] == pytest.approx(1 / 2)


def test_few_shot_counts_by_hand() -> None:
    task = few_shot_task()
    metric = evaluate_task(FeatureExtractor(ColorModel(), ColorData()), task)
    # The colours are told apart, so 3 of 4 are right for every seed; the last label is wrong.
    assert metric.compute() == pytest.approx({"fewshot1_top1": 0.75, "fewshot2_top1": 0.75})
    assert metric.measures()["fewshot1_top1"].values.tolist() == [1, 1, 1, 0]
    assert metric.details()["fewshot2_top1"] == {"per_seed": [0.75, 0.75], "classes_with_fewer_images": 0}
    assert task_chance(task) == {"fewshot1_top1": 0.5, "fewshot2_top1": 0.5}


def test_few_shot_encodes_the_picked_images_alone() -> None:
    read: set[int] = set()

    task = few_shot_task()
    train = LabelledImages(CountedImages(["red", "blue"] * 200, read), [0, 1] * 200)
    metrics_of(dataclasses.replace(task, train=train))
    assert 4 <= len(read) <= 2 * 2 * 2  # two shots of two classes, for two seeds


def test_few_shot_says_which_classes_are_short() -> None:
    task = FewShotTask(labelled("red", "red", "blue"), labelled("red"), ["red", "blue"], shots=(2,), seeds=(0,))
    details = evaluate_task(FeatureExtractor(ColorModel(), ColorData()), task).details()
    assert details["fewshot2_top1"]["classes_with_fewer_images"] == 1


def test_linear_probe_counts_by_hand() -> None:
    test = LabelledImages(Images(["red", "blue", "blue", "blue"]), [0, 1, 1, 0])
    task = LinearProbeTask(labelled(*["red", "blue"] * 5), test, ["red", "blue"], strengths=(0.1,))
    metric = evaluate_task(FeatureExtractor(ColorModel(), ColorData()), task)
    # Red: 1 of 2. Blue: 2 of 2.
    assert metric.compute() == pytest.approx({"linear_probe_top1": 0.75, "linear_probe_class_mean": 0.75})
    assert metric.details() == {"strength": 0.1, "held_out_top1": {"0.1": 1.0}}
    assert task_chance(task).keys() == metric.measures().keys()


@pytest.mark.parametrize(
    ("changes", "rule"),
    [({"shots": (0,)}, "shots must be"), ({"seeds": ()}, "seeds must"), ({"l2": 0.0}, "l2 must be")],
)
def test_few_shot_settings_out_of_range_are_refused(changes: dict[str, float | tuple[int]], rule: str) -> None:
    task = dataclasses.replace(few_shot_task(), **changes)
    with pytest.raises(ValueError, match=rule):
        metrics_of(task)


def test_strengths_must_be_positive() -> None:
    with pytest.raises(ValueError, match="strengths must be"):
        metrics_of(LinearProbeTask(labelled("red"), labelled("red"), ["red", "blue"], strengths=(0.0,)))


def test_evaluation_mode_without_gradients_and_every_mode_restored() -> None:
    model = ColorModel().train()
    model.frozen.eval()
    encoder = FeatureExtractor(model, ColorData())
    for task in (zero_shot_task(), few_shot_task()):
        evaluate_task(encoder, task)
    assert model.modes == {(False, False)}
    assert model.training and not model.frozen.training


def test_a_loader_that_drops_images_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = ColorData.image_loader
    monkeypatch.setattr(ColorData, "image_loader", lambda self, images: list(complete(self, images))[:-1])
    with pytest.raises(DataError, match="2 of 4"):
        metrics_of(zero_shot_task())


@pytest.mark.parametrize(
    ("labels", "names", "rule"),
    [([0], ["a", "b"], "as many labels"), ([0, 2], ["a", "b"], "0..1"), ([0, 0], ["a"], "at least 2 classes")],
)
def test_tasks_that_cannot_be_scored_are_refused(labels: list[int], names: list[str], rule: str) -> None:
    task = ZeroShotTask(Images(["red", "blue"]), labels, names, ["{}"])
    with pytest.raises(ValueError, match=rule):
        metrics_of(task)


def test_callbacks_log_their_own_kind_of_task(tmp_path: Path) -> None:
    tasks = {"colors": zero_shot_task(), "found": retrieval_task(), "few": few_shot_task()}
    callbacks = [with_tasks(kind(), tasks) for kind in (ZeroShotValidation, RetrievalValidation, FewShotValidation)]
    metrics = fit(tmp_path, *callbacks).trainer.callback_metrics
    assert metrics["val/colors/zeroshot_top1"] == 0.75
    assert metrics["val/found/i2t_r1"] == 1.0
    logged = {key for key in metrics if key.startswith("val/") and key.count("/") == 2}
    assert logged == {f"val/{name}/{metric}" for name, task in tasks.items() for metric in task_chance(task)}
    assert metrics["val/few/fewshot2_top1"] == 0.75


def test_every_second_validation_and_the_last_one(tmp_path: Path) -> None:
    callback = with_tasks(ZeroShotValidation(every_n_val=2), {"colors": zero_shot_task()})
    seen = fit(tmp_path, callback, num_sanity_val_steps=1).validations
    # One sanity check (never evaluated), then validations at steps 2, 4 and 6; the last one always counts.
    assert [bool(metrics) for metrics in seen] == [False, False, True, True]


def test_the_count_of_validations_survives_a_checkpoint() -> None:
    callback = ZeroShotValidation(every_n_val=2)
    callback.load_state_dict({"validations": 3})
    assert callback.state_dict() == {"validations": 3}


def test_evaluates_outside_of_training_too() -> None:
    callback = with_tasks(ZeroShotValidation(every_n_val=5), {"colors": zero_shot_task()})
    trainer = L.Trainer(
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    assert trainer.validate(ColorModule(), datamodule=ColorData(), verbose=False)[0]["val/colors/zeroshot_top1"] == 0.75


@pytest.mark.parametrize(
    ("kind", "settings", "argument"),
    [
        (ZeroShotValidation, {"every_n_val": 0}, "^every_n_val"),
        (RetrievalValidation, {"batch_size": 0}, "^batch_size"),
        (SamplePredictions, {"count": 0}, "^count"),
    ],
)
def test_values_out_of_range_name_the_argument(kind: type[Any], settings: dict[str, int], argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        kind(**settings)


def test_samples_written_at_the_end_of_training(tmp_path: Path) -> None:
    fit(tmp_path, with_tasks(SamplePredictions(count=3), {"found": retrieval_task(), "colors": zero_shot_task()}))
    content = json.loads((tmp_path / "samples" / "samples.json").read_text())
    assert content["task"] == "colors"
    # Three of the four images, one of each class that has any, in the order of the task.
    assert [item["truth"] for item in content["items"]] == ["red", "blue", "black"]
    first = content["items"][0]
    assert first["top"][0][0] == "red" and len(first["top"]) == 3
    # Red with red, black, and the two others: cosines 1, 1/sqrt(3), 0.002. Softmax of ten times that:
    # 1 / (1 + exp(5.774 - 10) + 2 exp(0.02 - 10)) = 1 / (1 + 0.0146 + 0.0001) = 0.9855
    assert first["top"][0][1] == pytest.approx(0.9855, abs=5e-4)
    with Pillow.open(tmp_path / "samples" / first["image"]) as image:
        assert image.size == (160, 80)
        assert image.getpixel((5, 5)) == COLORS["red"]


def test_no_samples_without_a_zero_shot_task(tmp_path: Path) -> None:
    fit(tmp_path, with_tasks(SamplePredictions(), {"found": retrieval_task()}))
    assert not (tmp_path / "samples").exists()


def test_images_are_spread_over_the_classes() -> None:
    labels = [0] * 50 + [1] * 3 + [2]
    assert [labels[i] for i in spread(labels, count=3)] == [0, 1, 2]
    assert sorted(labels[i] for i in spread(labels, count=6)) == [0, 0, 0, 1, 1, 2]
    assert spread(labels, count=6) == spread(labels, count=6)
    assert len(spread(labels, count=100)) == 54


def test_short_names_in_a_fixed_order() -> None:
    metrics = {
        "router/text/success_rate": 0.875,
        "val/colors/zeroshot_top1": 0.5,
        "train/loss": torch.tensor(2.0),
        "lr": 1,
    }
    assert shown(metrics) == ["loss 2.000", "zero-shot 50.0%", "text success 88%"]
    assert shown(metrics | {"val/more/zeroshot_top1": 1.0})[1:3] == ["colors 50.0%", "more 100.0%"]


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, with_tasks(ZeroShotValidation(), {"colors": zero_shot_task()}), Progress(), num_sanity_val_steps=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["step 2/6", "step 4/6", "step 6/6"]
    assert all(line.endswith("zero-shot 75.0%, text success 88%") for line in lines)


def test_a_bar_in_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module.sys.stdout, "isatty", lambda: True)
    fit(tmp_path, with_tasks(ZeroShotValidation(), {"colors": zero_shot_task()}), Progress())
    last = capsys.readouterr().out.strip().split("\r")[-1]
    assert last.startswith("6/6") and "zero-shot 75.0%, text success 88%" in last


def test_progress_says_nothing_on_other_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = Progress()
    callback.disable()
    fit(tmp_path, callback)
    assert capsys.readouterr().out == ""
