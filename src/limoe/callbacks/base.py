"""Methods that a callback of a run may have beside the hooks of Lightning."""

from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L

from limoe.data.tasks.kinds import Task
from limoe.training.lit_module import LIMoEModule


class RunCallback(L.Callback):
    """A Lightning callback with a check before the run and a reason to stop; plain Lightning callbacks work as well.

    Attributes:
        stop_reason: why this callback ended the training before its last step, in one line; None: it did not. It is
            written to `run.json` with the status "stopped".
    """

    stop_reason: str | None = None

    def check(self, module: LIMoEModule) -> None:
        """Raise `ConfigError` for a run that the callback does not fit.

        Called once before the training starts, and by a study for each variant before its first trial starts. The
        weights may have no values then. `module.hparams` is the config of the run.

        Raises:
            ConfigError: the callback does not fit the run.
        """


class TaskCallback(RunCallback):
    """A callback that needs the evaluation tasks of the run.

    Attributes:
        kind: class of the tasks that it takes, or a union of classes.
        tasks: tasks of these kinds by name; empty until `use_tasks` was called.
    """

    kind: Any = Task

    def __init__(self) -> None:
        self.tasks: dict[str, Any] = {}

    def use_tasks(self, tasks: Mapping[str, Task]) -> None:
        """Keep those of the run's evaluation tasks (group `eval`) that are instances of `kind`.

        Called once, after the callback was built and before the training starts; not by a study that only checks its
        variants, where tasks have no data yet. A subclass that needs a certain task raises `ConfigError` here.
        """
        self.tasks = {name: task for name, task in tasks.items() if isinstance(task, self.kind)}


def check_callbacks(callbacks: Iterable[L.Callback], module: LIMoEModule) -> None:
    """Call `check` of every callback.

    Raises:
        ConfigError: one of them does not fit the run.
    """
    for callback in callbacks:
        if isinstance(callback, RunCallback):
            callback.check(module)


def stop_reason(callbacks: Iterable[L.Callback]) -> str | None:
    """The `stop_reason` of the first callback that ended the training; None where none did."""
    for callback in callbacks:
        if isinstance(callback, RunCallback) and callback.stop_reason is not None:
            return callback.stop_reason
    return None
