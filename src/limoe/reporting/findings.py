"""Results of a run in words and tables, for the report and the terminal summary."""

import math
import re
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from limoe.reporting.sheets import Entry, Sheet, sheet
from limoe.runs.folder import Health, RunFolder

SHARE = re.compile(
    r"(zeroshot_\w+|fewshot\d+_\w+|linear_probe_\w+|[it]2[it]_r\d+|success_rate(_min)?)$"
)  # metrics that are shares of 1
_STATUS = {"done": "Finished", "failed": "Failed", "stopped": "Stopped early", "running": "Not ended"}


def number(key: str, value: float) -> str:
    """Shares in percent, other values with four digits; NaN and infinity by name."""
    if not math.isfinite(value):
        return str(value)
    if not SHARE.search(key):
        return f"{value:.4g}"
    return f"{value:.2%}" if 0 < round(value, 4) < 0.01 else f"{value:.1%}"


def duration(seconds: Any) -> str:
    """`2 min 31 s`; empty if unknown."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return " ".join(f"{n} {unit}" for n, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if n or unit == "s")


def factor(value: float, chance: float | None) -> str:
    """Ratio of a value to chance, such as `42.1 ×`; empty if chance is unknown or not positive."""
    if not chance or chance < 0 or not math.isfinite(value):
        return ""
    ratio = value / chance
    return f"{ratio:.1f} ×" if ratio < 100 else f"{ratio:.0f} ×"


def metric_sheet(metrics: Mapping[str, float], *, chance: Mapping[str, float]) -> Sheet:
    """Final values and chance; those with a known chance first, in its order, the others by key."""
    order = {key: position for position, key in enumerate(chance)}
    return sheet(
        "metrics",
        ["metric", "final", "chance", "times chance"],
        [
            [
                key,
                Entry(number(key, metrics[key]), metrics[key]),
                Entry(number(key, chance[key]), chance[key]) if key in chance else "",
                Entry(times, metrics[key] / chance[key]) if (times := factor(metrics[key], chance.get(key))) else "",
            ]
            for key in sorted(metrics, key=lambda key: (order.get(key, len(order)), natural(key)))
        ],
    )


def natural(key: str) -> list[tuple[int, str]]:
    """A sort key that orders r1, r5, r10 as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", key)]


_HEADLINES = {
    "zeroshot_top1": ("Zero-shot accuracy on the held-out images of", "top-1"),
    "i2t_r1": ("Retrieval of texts by the images of", "R@1"),
}


def headline(run: RunFolder) -> str:
    """One sentence: how the run ended, and its first zero-shot accuracy or R@1 beside chance."""
    status = _STATUS.get(str(run.record.get("status")), "Status unknown")
    took = duration(run.record.get("seconds"))
    start = f"{status} after {took}" if took else status
    key = next((key for key in [*run.chance, *run.metrics] if _measure(key) in _HEADLINES and key in run.metrics), "")
    if not key:
        return f"{start}. No zero-shot accuracy and no R@1 was measured."
    value = run.metrics[key]
    chance = run.chance.get(key)
    name, unit = _HEADLINES[_measure(key)]
    found = f"{start}. {name} {key.split('/')[1]}: {number(key, value)}"
    if chance is None:
        return f"{found} ({unit}; chance unknown)."
    times = factor(value, chance)
    return f"{found} ({unit}), {f'{times} chance' if times else 'chance'} ({number(key, chance)})."


def _measure(key: str) -> str:
    """The last part of a logged key."""
    return key.rpartition("/")[2]


def last_health(run: RunFolder) -> list[Health]:
    """The latest entry of every layer and modality; layers ascending, image before text."""
    latest = {(row.layer, row.modality): row for row in run.health}  # rows come sorted by step
    return [latest[key] for key in sorted(latest)]


def health_sheet(rows: Sequence[Health]) -> Sheet:
    """Routing statistics of each layer and modality at the last logged step.

    Entropies in nats; load CV: standard deviation over mean; experts used: exponential of the global entropy.
    """
    columns = ("success rate", "load CV", "local entropy", "global entropy", "experts used", "dead experts")
    return sheet(
        "health",
        ["layer", "modality", *columns],
        [
            [
                Entry(str(row.layer), row.layer),
                row.modality,
                Entry(f"{row.success_rate:.1%}", row.success_rate),
                Entry(f"{pstdev(row.load) / mean:.2f}", pstdev(row.load) / mean)
                if (mean := fmean(row.load or (0,)))
                else "",
                Entry(f"{row.local_entropy:.3f}", row.local_entropy),
                Entry(f"{row.global_entropy:.3f}", row.global_entropy),
                Entry(f"{row.effective_experts:.1f}", row.effective_experts),
                Entry(str(row.dead_experts), row.dead_experts),
            ]
            for row in rows
        ],
    )
