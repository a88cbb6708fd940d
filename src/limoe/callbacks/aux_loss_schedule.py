"""Weights of auxiliary losses as functions of the training step."""

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import lightning as L

from limoe.callbacks.base import RunCallback
from limoe.errors import ArgumentError, require_argument
from limoe.training.lit_module import LIMoEModule
from limoe.training.schedules import Schedule


def constant(*, value: float) -> Schedule:
    """The same factor at every step."""
    return lambda step: value


def linear(*, start: int, end: int, start_value: float = 0.0, end_value: float = 1.0) -> Schedule:
    """A linear ramp between two steps, constant outside."""
    return lambda step: start_value + (end_value - start_value) * _progress(step, start, end)


def cosine(*, start: int, end: int, start_value: float = 0.0, end_value: float = 1.0) -> Schedule:
    """A half-cosine ramp between two steps, constant outside."""

    def factor(step: int) -> float:
        return start_value + (end_value - start_value) * 0.5 * (1 - math.cos(math.pi * _progress(step, start, end)))

    return factor


def window(*, on: int = 0, off: int | None = None) -> Schedule:
    """1 for `on` <= step < `off` (None: to the end), 0 outside."""
    return lambda step: float(on <= step and (off is None or step < off))


_KINDS: dict[str, Callable[..., Schedule]] = {kind.__name__: kind for kind in (constant, linear, cosine, window)}


def _progress(step: int, start: int, end: int) -> float:
    return min(1.0, max(0.0, (step - start) / (end - start)))


def build_schedule(name: str, spec: Mapping[str, Any]) -> Schedule:
    """A schedule from `{kind: linear, start: 0, end: 1000, ...}`.

    Raises:
        ArgumentError: unknown kind, unknown or missing argument, `end` not after `start`.
    """
    argument = f"schedules.{name}"
    arguments = {**spec}
    kind = str(arguments.pop("kind", None))
    require_argument(kind in _KINDS, f"{argument}.kind", f"one of {', '.join(_KINDS)}", kind)
    if "start" in arguments and "end" in arguments:
        start, end = arguments["start"], arguments["end"]
        require_argument(end > start, f"{argument}.end", f"> start={start}", end)
    try:
        return _KINDS[kind](**arguments)
    except TypeError as error:
        raise ArgumentError(f"{argument}: {error}", argument=argument) from None


class AuxLossSchedule(RunCallback):
    """Set the factor on each scheduled term's weight before every training batch.

    The factor multiplies the configured weight; the number of losses averaged over stays as configured.

    Args:
        schedules: term name -> `{kind: constant | linear | cosine | window, ...}`, steps are optimizer steps.
    """

    def __init__(self, *, schedules: Mapping[str, Mapping[str, Any]]) -> None:
        self.schedules = {name: build_schedule(name, spec) for name, spec in schedules.items()}

    def check(self, module: LIMoEModule) -> None:
        """Raise `LimoeError` unless every scheduled loss is an auxiliary loss of the run."""
        self._apply(module, step=0)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._apply(cast(LIMoEModule, pl_module), step=trainer.global_step)
        pl_module.log_dict({f"train/aux_factor/{n}": f(trainer.global_step) for n, f in self.schedules.items()})

    def _apply(self, module: LIMoEModule, *, step: int) -> None:
        for name, schedule in self.schedules.items():
            module.aux_losses.set_factor(name, schedule(step))
