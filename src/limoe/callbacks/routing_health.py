"""How well each modality is served by each router: logged, and written as one JSON line per layer and modality."""

import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import torch

from limoe.errors import require
from limoe.routing.statistics import ModalityStatistics, modality_statistics
from limoe.types import MODALITIES, RouterOutput

_LOGGED = ("success_rate", "local_entropy", "global_entropy", "load_cv", "dead_experts")


class RoutingHealth(L.Callback):
    """Every `every_n_steps` optimizer steps: `router/L05/text/<statistic>` of each layer and modality.

    `router/text/success_rate` is the mean over layers. The full load per expert goes to `routing/health.jsonl` in the
    run folder (rank 0, its own share of the batch).

    Args:
        every_n_steps: optimizer steps between two records; of accumulated batches the last one is recorded.
    """

    def __init__(self, *, every_n_steps: int = 20) -> None:
        require(every_n_steps >= 1, "callbacks.routing_health.every_n_steps", ">= 1", every_n_steps)
        self.every_n_steps = every_n_steps
        self._last_step = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        routing: dict[int, RouterOutput] = outputs["output"].routing
        stepped, self._last_step = trainer.global_step != self._last_step, trainer.global_step
        is_due = trainer.global_step % self.every_n_steps == 0 or trainer.global_step == trainer.max_steps
        if not (routing and stepped and is_due):
            return
        records = []
        for name_id, modality in enumerate(MODALITIES):
            by_layer = {layer: modality_statistics(routed, name_id) for layer, routed in routing.items()}
            for layer, statistics in by_layer.items():
                pl_module.log_dict(
                    {f"router/L{layer:02d}/{modality}/{s}": getattr(statistics, s).float() for s in _LOGGED}
                )
                records.append(_record(trainer.global_step, layer, modality, statistics))
            success = torch.stack([s.success_rate for s in by_layer.values()]).mean()
            pl_module.log(f"router/{modality}/success_rate", success, prog_bar=True)
        if trainer.is_global_zero:
            _append(Path(trainer.default_root_dir) / "routing" / "health.jsonl", records)


def _record(step: int, layer: int, modality: str, statistics: ModalityStatistics) -> dict[str, Any]:
    values = {name: _finite(value.tolist()) for name, value in statistics._asdict().items()}
    return {"step": step, "layer": layer, "modality": modality, **values}


def _finite(value: Any) -> Any:
    """null for the NaN of an absent modality: JSON has no NaN."""
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return value if math.isfinite(value) else None


def _append(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(record, allow_nan=False) + "\n" for record in records)
