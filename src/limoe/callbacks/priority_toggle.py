"""Switch the rule of who sits first (BPR and others) while a run goes on."""

from collections.abc import Mapping
from typing import Any

import lightning as L

from limoe.errors import require
from limoe.routing.priority import Priority, get_priority


class PriorityToggle(L.Callback):
    """Changes the routers' priority at given steps or epochs, for training and for evaluation apart.

    Before the first entry the configured priority holds. After a resume the last entry at or before the current
    position holds, since the switch is a function of the position alone.

    Args:
        train: position -> name of a priority (`bpr`, `first_come`, ..., or a dotted path).
        eval: the same for evaluation (matters only with `routing.eval_capacity_factor`).
        unit: "step" (optimizer steps) or "epoch".

    Raises:
        ConfigError: unknown unit or priority, negative position.
    """

    def __init__(
        self, *, train: Mapping[int, str] | None = None, eval: Mapping[int, str] | None = None, unit: str = "step"
    ) -> None:
        require(unit in ("step", "epoch"), "callbacks.priority_toggle.unit", "'step' or 'epoch'", unit)
        self.unit = unit
        self.train, self.eval = _phases("train", train), _phases("eval", eval)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._apply(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._apply(trainer, pl_module)

    def _apply(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        position = trainer.global_step if self.unit == "step" else trainer.current_epoch
        for attribute, phases in (("priority", self.train), ("eval_priority", self.eval)):
            current = [priority for start, priority in phases if start <= position]
            if not current:
                continue
            for module in pl_module.modules():
                if hasattr(module, attribute):
                    setattr(module, attribute, current[-1])


def _phases(name: str, spec: Mapping[int, str] | None) -> list[tuple[int, Priority]]:
    starts = sorted(spec or {})
    for start in starts:
        is_position = isinstance(start, int) and start >= 0
        require(is_position, f"callbacks.priority_toggle.{name}", "a map from whole numbers >= 0 to priorities", start)
    return [(start, get_priority((spec or {})[start])) for start in starts]
