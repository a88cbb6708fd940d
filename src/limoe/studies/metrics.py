"""Metrics of a report on several runs, chosen by the user or by default."""

from collections.abc import Sequence

from limoe.config.errors import did_you_mean
from limoe.errors import ConfigError
from limoe.reporting.findings import natural
from limoe.studies.results import Row
from limoe.studies.study import Metric
from limoe.types import MODALITIES

_LOSS = "val/loss"
_NAMES = {_LOSS: "validation loss"} | {f"router/{name}/success_rate": f"success rate of {name}" for name in MODALITIES}


def metric(key: str) -> Metric:
    """The metric of a logged key, with a readable name; for losses lower is better."""
    return Metric(key, _NAMES.get(key, key.removeprefix("val/")), higher=not key.endswith("loss"))


def chosen_metrics(rows: Sequence[Row], keys: Sequence[str] | None) -> tuple[Metric, ...]:
    """The metrics named by `keys`, by default `common_metrics`.

    Raises:
        ConfigError: no run logged one of `keys`, or the runs have no held-out metric in common.
    """
    logged = {key for row in rows for key in (*row.metrics, *row.curves)}
    for key in keys or ():
        if key not in logged:
            raise ConfigError(f"metrics: no run has logged {key!r}{did_you_mean(key, logged)}")
    if keys:
        return tuple(metric(key) for key in keys)
    found = [held_out(row) - {_LOSS} for row in rows if row.metrics]
    if found and not set.intersection(*found) and any(other != found[0] for other in found):
        tasks = sorted({key.split("/")[1] for keys in found for key in keys if key.count("/") == 2})
        raise ConfigError(
            f"runs: no held-out metric but the loss is common to all (tasks: {', '.join(tasks)}); "
            "compare runs with the same eval=..., or choose metrics: metrics=[val/loss]"
        )
    return common_metrics(rows)


def common_metrics(rows: Sequence[Row]) -> tuple[Metric, ...]:
    """Held-out metrics of all finished runs, top-1 and R@1 first, then the success rates that any of them has.

    Without a finished run only the validation loss.
    """
    measured = [row.metrics for row in rows if row.metrics]
    common = set.intersection(*(held_out(row) for row in rows if row.metrics)) if measured else set()
    rates = [f"router/{name}/success_rate" for name in MODALITIES]
    keys = [*sorted(common or {_LOSS}, key=_order), *(key for key in rates if any(key in found for found in measured))]
    return tuple(metric(key) for key in keys)


def held_out(row: Row) -> set[str]:
    return {key for key in row.metrics if key.startswith("val/")}


def _order(key: str) -> tuple[int, list[tuple[int, str]]]:
    """Sort key: top-1 and R@1, then the loss, then the rest; R@5 before R@10."""
    return (0 if key.endswith(("_top1", "_r1")) else 1 if key == _LOSS else 2), natural(key)
