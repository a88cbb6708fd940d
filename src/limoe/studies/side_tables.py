"""The other tables of a study: tuned values, routing health, cost, trials, and differences of configs."""

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from omegaconf import DictConfig, OmegaConf

from limoe.config.trees import leaves
from limoe.reporting.findings import duration, number
from limoe.reporting.seeds import estimate
from limoe.reporting.sheets import Entry, Sheet, sheet
from limoe.studies.cost import FLOP_UNITS, Cost, unit_of
from limoe.studies.results import Row, kept_slots
from limoe.studies.study import Metric, Study
from limoe.studies.tables import share, values, with_interval
from limoe.types import MODALITIES

Differences = Mapping[str, Mapping[str, tuple[Any, Any]]]


def tuned_sheet(study: Study) -> Sheet:
    """Values that were chosen for single variants, with the values that were tried."""
    known = [(name, study.tuned[name]) for name in study.variants if name in study.tuned]
    rows = [[name, " ".join(tuned.words), tuned.grid or "not stated"] for name, tuned in known]
    return sheet("tuned", ["variant", "own tuned values", "grid tried"], rows)


def routing_sheet(study: Study, rows: Sequence[Row], configs: Mapping[str, DictConfig]) -> Sheet:
    """Routing at the last logged step of the finished trials, one row per sparse variant and modality."""
    columns = ["variant", "modality", "success rate", "worst layer", "effective experts", "dead experts", "kept slots"]
    found = []
    for variant in study.variants:
        own = [row for row in rows if row.trial.variant == variant]
        found += [_routing(variant, modality, own, configs[variant]) for modality in MODALITIES]
    return sheet("routing", [*columns, "runs with an alarm"], [line for line in found if line])


def cost_sheet(costs: Sequence[Cost]) -> Sheet:
    """Parameters, FLOPs per pair and per run, and measured times: seconds per step and CPU time per run (medians)."""
    unit = unit_of(FLOP_UNITS, largest=max((cost.flops for cost in costs), default=0.0))
    columns = ["parameters", "active per token", "GFLOP per pair, training", f"{unit}FLOP per run", "seconds per step"]
    rows: list[list[Entry | str]] = [
        [
            cost.variant,
            Entry(f"{cost.parameters / 1e6:.2f} M", cost.parameters),
            Entry(f"{cost.active / 1e6:.2f} M", cost.active),
            _plain(cost.flops_per_pair / 1e9),
            _plain(cost.flops / FLOP_UNITS[unit]),
            _plain(cost.seconds_per_step),
            Entry(duration(cost.cpu_seconds) or "–", cost.cpu_seconds),
        ]
        for cost in costs
    ]
    return sheet("cost", ["variant", *columns, "CPU time per run"], rows)


def trial_sheet(metrics: Sequence[Metric], rows: Sequence[Row]) -> Sheet:
    """All trials, also failed ones, with the reason in the last column."""
    columns = ["variant", "seed", "status", "successful", "time", *(metric.name for metric in metrics), "run", "note"]
    table: list[list[Entry | str]] = []
    for row in rows:
        seed = row.trial.seed
        seconds = row.state.seconds
        cells = [
            row.trial.variant,
            Entry(str(seed), seed) if seed >= 0 else "–",
            row.state.status,
            "yes" if row.successful else "no",
            Entry(duration(seconds), seconds) if seconds else "–",
        ]
        for metric in metrics:
            value = row.metrics.get(metric.key)
            cells.append(Entry(number(metric.key, value), value) if value is not None else "–")
        table.append([*cells, row.name, row.state.error])
    return sheet("runs", columns, table)


def difference_sheet(differences: Differences) -> Sheet:
    rows = [
        [variant, key, *("–" if value is None else str(value) for value in pair)]
        for variant, keys in differences.items()
        for key, pair in keys.items()
    ]
    return sheet("differences", ["variant", "key", "baseline", "variant's"], rows)


def _routing(variant: str, modality: str, rows: Sequence[Row], config: DictConfig) -> list[Entry | str]:
    key = f"router/{modality}/success_rate"
    rates = list(values(rows, variant, key).values())
    if not rates:
        return []
    finished = [row for row in rows if row.state.finished]
    kept = [kept_slots(row.metrics).get(modality, False) for row in finished]
    alarms = sum(row.alarms > 0 for row in finished)
    model = OmegaConf.to_container(config.get("model") or OmegaConf.create({}), resolve=True)
    experts = [value for key, value in leaves(model) if key.endswith("num_experts")]
    last = [item for row in finished for item in row.metrics.items()]
    worst, used, dead = (  # values in all sparse layers
        [value for key, value in last if re.fullmatch(rf"router/L\d+/{modality}/{name}", key)]
        for name in ("success_rate", "effective_experts", "dead_experts")
    )
    return [
        variant,
        modality,
        Entry(with_interval(key, estimate(rates)), fmean(rates)),
        Entry(number(key, min(worst)), min(worst)) if worst else "–",
        Entry(f"{fmean(used):.1f}" + (f" of {max(experts)}" if experts else ""), fmean(used)) if used else "–",
        Entry(f"{fmean(dead):.1f}", fmean(dead)) if dead else "–",
        share(sum(kept), len(kept)),
        Entry(f"{alarms} / {len(finished)}", alarms),
    ]


def _plain(value: float | None) -> Entry:
    return Entry(f"{value:.3g}", value) if value else Entry("–")
