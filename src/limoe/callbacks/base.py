"""What a callback of a run may offer beside the hooks of Lightning."""

from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L

from limoe.data.tasks.kinds import Task
from limoe.training.lit_module import LIMoEModule


class RunCallback(L.Callback):
    """A Lightning callback that limoe asks two more questions. Plain Lightning callbacks work beside it.

    Attributes:
        stop_reason: why this callback ended the training before its last step, in one line; None: it did not. Goes to
            `run.json`, whose status is then "stopped".
    """

    stop_reason: str | None = None

    def check(self, module: LIMoEModule) -> None:
        """Refuse a run that the callback does not fit.

        Called once before the training starts, and by a study for each variant before its first trial starts. The
        weights may have no values then. `module.hparams` is the config of the run.

        Raises:
            ConfigError: the callback does not fit the run.
        """


class TaskCallback(RunCallback):
    """A callback that needs the evaluation tasks of the run.

    Attributes:
        kind: the kinds of task it takes: a class, or a union of classes.
        tasks: tasks of these kinds by name; empty until `use_tasks` was called.
    """

    kind: Any = Task

    def __init__(self) -> None:
        self.tasks: dict[str, Any] = {}

    def use_tasks(self, tasks: Mapping[str, Task]) -> None:
        """Take those of the run's evaluation tasks (group `eval`) that are of the callback's kinds.

        Called once, after the callback was built and before the training starts; not by a study that only checks its
        variants, where tasks have no data yet. A subclass that needs a certain task raises `ConfigError` here.
        """
        self.tasks = {name: task for name, task in tasks.items() if isinstance(task, self.kind)}


def check_callbacks(callbacks: Iterable[L.Callback], module: LIMoEModule) -> None:
    """Ask every callback whether it fits the run.

    Raises:
        ConfigError: one of them does not.
    """
    for callback in callbacks:
        if isinstance(callback, RunCallback):
            callback.check(module)


def stop_reason(callbacks: Iterable[L.Callback]) -> str | None:
    """Why a callback ended the training, in the words of the first one that did; None where none did."""
    for callback in callbacks:
        if isinstance(callback, RunCallback) and callback.stop_reason is not None:
            return callback.stop_reason
    return None
