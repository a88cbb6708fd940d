"""Switch the priority of the routers (BPR and others) during training."""

from collections.abc import Mapping
from typing import Any

import lightning as L
from torch import nn

from limoe.errors import LimoeError, require_argument
from limoe.routing.base import Router, routers_of
from limoe.routing.priority import Priority, get_priority


class PriorityToggle(L.Callback):
    """Change the routers' priority at given steps or epochs, separately for training and evaluation.

    Before the first entry the configured priority applies, then that of the last entry at or before the current
    position, also after a resume.

    Args:
        train: position -> name of a priority (`bpr`, `first_come`, ..., or a dotted path).
        eval: the same for evaluation (matters only with `routing.eval_capacity_factor`).
        unit: "step" (optimizer steps) or "epoch".

    Raises:
        ArgumentError: unknown unit, negative position.
        ConfigError: unknown priority.
    """

    def __init__(
        self, *, train: Mapping[int, str] | None = None, eval: Mapping[int, str] | None = None, unit: str = "step"
    ) -> None:
        require_argument(unit in ("step", "epoch"), "unit", "'step' or 'epoch'", unit)
        self.unit = unit
        self.train, self.eval = _phases("train", train), _phases("eval", eval)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not routers_with_priority(pl_module):
            raise LimoeError("priority_toggle: no router of this model has a priority; leave the callback out")

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._apply(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._apply(trainer, pl_module)

    def _apply(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        position = trainer.global_step if self.unit == "step" else trainer.current_epoch
        for router in routers_with_priority(pl_module):
            router.priority = _current(self.train, position, otherwise=router.priority)
            router.eval_priority = _current(self.eval, position, otherwise=router.eval_priority)


def routers_with_priority(model: nn.Module) -> list[Router]:
    """Routers that assign slots by a priority."""
    return [router for router in routers_of(model) if router.priority is not None]


def _current(phases: list[tuple[int, Priority]], position: int, *, otherwise: Priority | None) -> Priority | None:
    """The priority of the last phase that has begun."""
    for start, priority in phases:
        if start <= position:
            otherwise = priority
    return otherwise


def _phases(name: str, spec: Mapping[int, str] | None) -> list[tuple[int, Priority]]:
    starts = sorted(spec or {})
    for start in starts:
        is_position = isinstance(start, int) and start >= 0
        require_argument(is_position, name, "a map from whole numbers >= 0 to priorities", start)
    return [(start, get_priority((spec or {})[start])) for start in starts]
