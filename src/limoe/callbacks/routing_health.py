"""Routing statistics per layer and modality: logged, and written as one JSON line each."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch

from limoe.config.trees import strict_json
from limoe.errors import require_argument
from limoe.routing.statistics import QUANTILES, ModalityStatistics, RoutingSums, statistics
from limoe.runs.layout import HEALTH
from limoe.types import MODALITIES, RouterOutput

_LOGGED = (
    *("success_rate", "load_cv", "top_share", "dead_experts", "own_experts"),
    *("local_entropy", "global_entropy", "effective_experts"),
)


class HealthRecord(NamedTuple):
    """Statistics of one modality in one layer at one optimizer step."""

    step: int
    layer: int
    modality: str
    statistics: ModalityStatistics


class RoutingHealth(L.Callback):
    """Log `router/L05/text/<statistic>` of each layer and modality every `every_n_steps` optimizer steps.

    `router/text/success_rate` is the mean over the layers that have text (in two towers not all of them),
    `router/text/success_rate_min` the minimum. All statistics, with loads per expert, are written to
    `routing/health.jsonl` in the run folder; `latest` holds the newest records for other callbacks. Values are over the
    batch of all ranks, the same on every rank. Between records nothing is computed and no rank waits for another.

    Args:
        every_n_steps: optimizer steps between two records; of accumulated batches the last one is recorded.
    """

    def __init__(self, *, every_n_steps: int = 20) -> None:
        require_argument(every_n_steps >= 1, "every_n_steps", ">= 1", every_n_steps)
        self.every_n_steps = every_n_steps
        self.latest: list[HealthRecord] = []
        self._last_step = 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        routing: dict[int, RouterOutput] = outputs["output"].routing
        stepped, self._last_step = trainer.global_step != self._last_step, trainer.global_step
        is_due = trainer.global_step % self.every_n_steps == 0 or trainer.global_step == trainer.max_steps
        if not (routing and stepped and is_due):
            return
        sums = RoutingSums({layer: routed.num_experts for layer, routed in routing.items()}).to(pl_module.device)
        sums.update(routing)
        found = sums.compute()
        step = trainer.global_step
        self.latest = [
            HealthRecord(step, layer, modality, statistics(found[layer], name_id, num_experts=routed.num_experts))
            for name_id, modality in enumerate(MODALITIES)
            for layer, routed in routing.items()
            if name_id in routed.modalities
        ]
        _log(pl_module, self.latest)
        if trainer.is_global_zero:
            append_lines(Path(trainer.default_root_dir) / HEALTH, map(_line, self.latest))


def _log(pl_module: L.LightningModule, records: list[HealthRecord]) -> None:
    for record in records:
        values = {name: getattr(record.statistics, name).float() for name in _LOGGED}
        for q, value in zip(QUANTILES, record.statistics.top_gate, strict=True):
            values[f"top_gate_q{round(100 * q):02d}"] = value.float()
        pl_module.log_dict({f"router/L{record.layer:02d}/{record.modality}/{name}": v for name, v in values.items()})
    for modality in dict.fromkeys(record.modality for record in records):
        rates = torch.stack([r.statistics.success_rate.float() for r in records if r.modality == modality])
        pl_module.log(f"router/{modality}/success_rate", rates.mean(), prog_bar=True)
        pl_module.log(f"router/{modality}/success_rate_min", rates.min())


def _line(record: HealthRecord) -> dict[str, Any]:
    values = strict_json({name: value.tolist() for name, value in record.statistics._asdict().items()})
    return {"step": record.step, "layer": record.layer, "modality": record.modality, **values}


def append_lines(path: Path, contents: Iterable[dict[str, Any]]) -> None:
    """Append each dict to the file as one line of strict JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(content, allow_nan=False) + "\n" for content in contents)
