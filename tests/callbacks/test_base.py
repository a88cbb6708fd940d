"""What limoe asks callbacks: only those that derive from its classes."""

from functools import partial
from typing import Any

import lightning as L
import pytest
from PIL import Image

from limoe.callbacks.base import RunCallback, TaskCallback, check_callbacks, stop_reason
from limoe.data.tasks.kinds import RetrievalTask, Task, ZeroShotTask
from limoe.losses.auxiliary.base import AuxLossSet
from limoe.losses.contrastive import SoftmaxContrastive
from limoe.training.lit_module import LIMoEModule
from limoe.training.optim import adamw
from limoe.types import Pair
from tests.helpers.builders import tiny_model


class Named(L.Callback):
    """A plain callback whose attributes happen to have the names."""

    stop_reason = "none of your business"

    def check(self, module: Any) -> None:
        raise AssertionError("not called for")


class Checked(RunCallback):
    def __init__(self) -> None:
        self.asked: list[Any] = []

    def check(self, module: Any) -> None:
        self.asked.append(module)


class OfTwoKinds(TaskCallback):
    kind = ZeroShotTask | RetrievalTask


class OfOneKind(TaskCallback):
    kind = RetrievalTask


def stopped(reason: str | None) -> RunCallback:
    callback = RunCallback()
    callback.stop_reason = reason
    return callback


def test_callbacks_are_checked_by_class_and_not_by_name() -> None:
    module = LIMoEModule(
        tiny_model(),
        contrastive=SoftmaxContrastive(),
        aux_losses=AuxLossSet({}),
        optimizer=partial(adamw, lr=1e-3),
        scheduler=lambda step: 1.0,
        config={},
    )
    checked = Checked()
    check_callbacks([Named(), RunCallback(), checked], module)
    assert checked.asked == [module]


def test_the_first_reason_counts() -> None:
    assert stop_reason([Named(), RunCallback()]) is None
    assert stop_reason([Named(), stopped(None), stopped("first"), stopped("second")]) == "first"


class Images:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Pair:
        return Pair(Image.new("RGB", (1, 1)), ["red"], {}, "0")

    def captions(self) -> Any:
        yield "red"


@pytest.mark.parametrize(
    ("kind", "names"),
    [(TaskCallback, ["classes", "found"]), (OfTwoKinds, ["classes", "found"]), (OfOneKind, ["found"])],
)
def test_tasks_of_the_kinds_that_were_asked_for(kind: type[TaskCallback], names: list[str]) -> None:
    tasks: dict[str, Task] = {
        "classes": ZeroShotTask(Images(), [0], ["red", "blue"], ["{}"]),
        "found": RetrievalTask(Images(), ["red"], [(0, 0)]),
    }
    callback = kind()
    assert callback.tasks == {}
    callback.use_tasks(tasks)
    assert callback.tasks == {name: tasks[name] for name in names}
