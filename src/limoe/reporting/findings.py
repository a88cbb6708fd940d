"""What a run found, in words and table rows: shared by the report and the terminal summary."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from limoe.reporting.run_folder import Health, RunFolder

SHARE = re.compile(
    r"(zeroshot_\w+|fewshot\d+_\w+|linear_probe_\w+|[it]2[it]_r\d+|success_rate(_min)?)$"
)  # metrics that are shares of 1
_STATUS = {"done": "Finished", "failed": "Failed", "stopped": "Stopped early", "running": "Not ended"}


@dataclass(frozen=True)
class MetricRow:
    """A final value as text, beside chance and how many times chance it is, where chance is known."""

    key: str
    value: str
    chance: str = ""
    factor: str = ""


@dataclass(frozen=True)
class HealthRow:
    """The last state of one router for one modality."""

    layer: int
    modality: str
    success_rate: str
    load_cv: str
    local_entropy: str
    global_entropy: str
    effective_experts: str
    dead_experts: int


def number(key: str, value: float) -> str:
    """Shares in percent, everything else with four digits; never hides a NaN."""
    if not math.isfinite(value):
        return str(value)
    if not SHARE.search(key):
        return f"{value:.4g}"
    return f"{value:.2%}" if 0 < round(value, 4) < 0.01 else f"{value:.1%}"


def duration(seconds: Any) -> str:
    """`2 min 31 s`; empty if it isn't known."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return " ".join(f"{n} {unit}" for n, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if n or unit == "s")


def factor(value: float, chance: float | None) -> str:
    """How many times chance a value is, such as `42.1 ×`; empty if that means nothing."""
    if not chance or chance < 0 or not math.isfinite(value):
        return ""
    ratio = value / chance
    return f"{ratio:.1f} ×" if ratio < 100 else f"{ratio:.0f} ×"


def metric_rows(metrics: Mapping[str, float], *, chance: Mapping[str, float]) -> list[MetricRow]:
    """Those with a known chance first and in its order, the others by key."""
    order = {key: position for position, key in enumerate(chance)}
    return [
        MetricRow(
            key,
            number(key, value),
            chance=number(key, chance[key]) if key in chance else "",
            factor=factor(value, chance.get(key)),
        )
        for key, value in sorted(metrics.items(), key=lambda item: (order.get(item[0], len(order)), _natural(item[0])))
    ]


def _natural(key: str) -> list[tuple[int, str]]:
    """Orders r1, r5, r10 as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", key)]


def headline(run: RunFolder) -> str:
    """One sentence: how the run ended, and zero-shot accuracy on held-out pictures beside chance."""
    status = _STATUS.get(str(run.record.get("status")), "Status unknown")
    took = duration(run.record.get("seconds"))
    start = f"{status} after {took}" if took else status
    key = next(
        (key for key in [*run.chance, *run.metrics] if key.endswith("/zeroshot_top1") and key in run.metrics), ""
    )
    if not key:
        return f"{start}. No zero-shot accuracy was measured."
    value, chance = run.metrics[key], run.chance.get(key)
    found = f"{start}. Zero-shot accuracy on the held-out pictures of {key.split('/')[1]}: {number(key, value)}"
    if chance is None:
        return f"{found} (top-1; chance unknown)."
    times = factor(value, chance)
    return f"{found} (top-1), {f'{times} chance' if times else 'chance'} ({number(key, chance)})."


def last_health(run: RunFolder) -> list[Health]:
    """The latest entry of every layer and modality; layers ascending, image before text."""
    latest = {(row.layer, row.modality): row for row in run.health}  # rows come sorted by step
    return [latest[key] for key in sorted(latest)]


def health_rows(rows: Sequence[Health]) -> list[HealthRow]:
    return [
        HealthRow(
            layer=row.layer,
            modality=row.modality,
            success_rate=f"{row.success_rate:.1%}",
            load_cv=f"{pstdev(row.load) / fmean(row.load):.2f}" if row.load and fmean(row.load) > 0 else "",
            local_entropy=f"{row.local_entropy:.3f}",
            global_entropy=f"{row.global_entropy:.3f}",
            effective_experts=f"{row.effective_experts:.1f}",
            dead_experts=row.dead_experts,
        )
        for row in rows
    ]
