"""What a report compares where nobody has said it."""

import re
from collections.abc import Sequence

from limoe.studies.results import Row
from limoe.studies.study import Metric
from limoe.types import MODALITIES

_LOSS = "val/loss"
_NAMES = {_LOSS: "validation loss"} | {f"router/{name}/success_rate": f"success rate of {name}" for name in MODALITIES}


def metric(key: str) -> Metric:
    """A logged key with a readable name; of losses the lower is the better."""
    return Metric(key, _NAMES.get(key, key.removeprefix("val/")), higher=not key.endswith("loss"))


def common_metrics(rows: Sequence[Row]) -> tuple[Metric, ...]:
    """What all finished runs measured on held-out data, best known first, then the success rates that any of them has.

    Without a finished run the validation loss alone.
    """
    measured = [row.metrics for row in rows if row.metrics]
    common = set.intersection(*(held_out(row) for row in rows if row.metrics)) if measured else set()
    rates = [f"router/{name}/success_rate" for name in MODALITIES]
    keys = [*sorted(common or {_LOSS}, key=_order), *(key for key in rates if any(key in found for found in measured))]
    return tuple(metric(key) for key in keys)


def held_out(row: Row) -> set[str]:
    return {key for key in row.metrics if key.startswith("val/")}


def _order(key: str) -> tuple[int, list[tuple[int, str]]]:
    """Top-1 and R@1, the loss, the rest; R@5 before R@10."""
    parts = [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", key)]
    return (0 if key.endswith(("_top1", "_r1")) else 1 if key == _LOSS else 2), parts
