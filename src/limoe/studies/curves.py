"""Curves of a study: mean over seeds, against steps, pairs, FLOPs and time."""

import csv
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from limoe.errors import DataError
from limoe.reporting.figures import Figure
from limoe.reporting.findings import SHARE
from limoe.reporting.plots import COLORS, Line, lines_plot, thinned
from limoe.reporting.sheets import Entry, sheet, write_sheet
from limoe.runs.folder import Curve
from limoe.studies.cost import FLOP_UNITS, Cost, unit_of
from limoe.studies.results import Row
from limoe.studies.study import Metric, Study
from limoe.types import MODALITIES

CURVES = "curves.csv"
MAX_POINTS = 50  # longer curves are drawn as means of neighbouring points
RATES = tuple(Metric(f"router/{name}/success_rate", f"success rate of {name}") for name in MODALITIES)
_STYLES = ("-", "--", ":", "-.")  # used in turn when there are more variants than colours


@dataclass(frozen=True)
class _Axis:
    """A horizontal axis: its quantity, units with their sizes (largest first), and the amount per training step."""

    quantity: str
    units: dict[str, float]
    of: Callable[[Cost], float]


AXES = {
    "steps": _Axis("training steps", {"": 1.0}, lambda cost: 1.0),
    "pairs": _Axis("pairs seen", {"million ": 1e6, "thousand ": 1e3, "": 1.0}, lambda cost: cost.pairs_per_step),
    "FLOPs": _Axis("FLOP of training", FLOP_UNITS, lambda cost: cost.flops_per_step),
    "time": _Axis(
        "of training", {"hours ": 3600.0, "minutes ": 60.0, "seconds ": 1.0}, lambda cost: cost.seconds_per_step or 0.0
    ),
}


def write_curves(study: Study, rows: Sequence[Row], folder: Path, *, keys: Sequence[str]) -> None:
    """Write `curves.csv` with five digits per value: what the page shows of all trials.

    Of variants outside the overview that is the first of `keys` alone, for the compute to reach the baseline's value.
    Validation metrics have all points, others at most about `MAX_POINTS`: means over neighbours, in groups of the same
    size for all seeds of a variant, so that their steps stay equal.
    """
    lines: list[list[Entry | str]] = []
    for variant, key in itertools.product(study.variants, keys):
        if key != keys[0] and variant not in study.shown:
            continue
        own = [row for row in rows if row.trial.variant == variant and row.curves.get(key)]
        longest = max((len(row.curves[key]) for row in own), default=0)
        size = 1 if key.startswith("val/") else math.ceil(longest / MAX_POINTS)
        for row in own:
            points = zip(*thinned(row.curves[key], size=size), strict=True)
            lines += [[variant, str(row.trial.seed), key, f"{step:.0f}", f"{value:.5g}"] for step, value in points]
    write_sheet(sheet(Path(CURVES).stem, ["variant", "seed", "key", "step", "value"], lines), folder)


def with_curves(rows: Sequence[Row], folder: Path) -> list[Row]:
    """The rows with the curves of `curves.csv`; without this file with none.

    Raises:
        DataError: the file is no such table.
    """
    path = folder / CURVES
    found: dict[tuple[str, int], dict[str, Curve]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                own = found.setdefault((line["variant"], int(line["seed"])), {})
                own.setdefault(line["key"], {})[int(line["step"])] = float(line["value"])
    except FileNotFoundError:
        pass  # results of a version without this file
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as curves: {type(error).__name__}: {error}") from error
    return [replace(row, curves=found.get((row.trial.variant, row.trial.seed), {})) for row in rows]


def metric_figures(
    study: Study, rows: Sequence[Row], costs: Sequence[Cost], *, metrics: Sequence[Metric]
) -> list[Figure]:
    """One figure per horizontal axis with known values and metric, in this order."""
    figures = []
    for name, axis in AXES.items():
        known = {cost.variant: axis.of(cost) for cost in costs}
        scale = {variant: known.get(variant, 1.0 if name == "steps" else 0.0) for variant in study.shown}
        for metric in metrics:
            shown = [row.curves.get(metric.key, {}) for row in rows if row.trial.variant in scale]
            last = max((step for curve in shown for step in curve), default=0)
            unit = unit_of(axis.units, largest=last * max(scale.values()), at_least=2)
            scaled = {variant: value / axis.units[unit] for variant, value in scale.items()}
            if figure := _figure(study, rows, metric, f"{unit}{axis.quantity}", scaled, axis=name):
                figures.append(figure)
    return figures


def health_figures(study: Study, rows: Sequence[Row]) -> list[Figure]:
    """Success rate of both modalities by training step, mean over layers."""
    same = dict.fromkeys(study.shown, 1.0)
    found = (_figure(study, rows, metric, "training steps", same) for metric in RATES)
    return [figure for figure in found if figure]


def variant_color(study: Study, variant: str) -> str:
    return COLORS[study.shown.index(variant) % len(COLORS)]


def _figure(
    study: Study, rows: Sequence[Row], metric: Metric, label: str, scale: Mapping[str, float], *, axis: str = ""
) -> Figure | None:
    lines = []
    for number, variant in enumerate(study.shown):
        curves = _curves(rows, variant, metric.key)
        if curves and scale[variant] > 0:
            style = _STYLES[number // len(COLORS) % len(_STYLES)]
            lines.append(_line(variant, curves, scale[variant], color=variant_color(study, variant), style=style))
    if not lines:
        return None
    percent = bool(SHARE.search(metric.key))
    plot = lines_plot(lines, title=metric.name, x_label=label, y_label="share" if percent else "value", percent=percent)
    return Figure(plot, f"{metric.name} against {label}, mean and range over seeds for each variant", axis)


def _curves(rows: Sequence[Row], variant: str, key: str) -> list[Curve]:
    """Curves of the finished trials; without any, of those that have started."""
    own = [row for row in rows if row.trial.variant == variant]
    found = [row for row in own if row.state.finished] or own
    return [row.curves[key] for row in found if key in row.curves]


def _line(variant: str, curves: Sequence[Curve], scale: float, *, color: str, style: str) -> Line:
    """Mean and range over seeds, at the steps that all seeds have logged."""
    columns = {step: [curve[step] for curve in curves] for step in set(curves[0]).intersection(*curves[1:])}
    steps, mean = thinned({step: sum(column) / len(column) for step, column in columns.items()}, limit=MAX_POINTS)
    return Line(
        variant,
        [step * scale for step in steps],
        mean,
        low=thinned({step: min(column) for step, column in columns.items()}, limit=MAX_POINTS)[1],
        high=thinned({step: max(column) for step, column in columns.items()}, limit=MAX_POINTS)[1],
        color=color,
        style=style,
    )
