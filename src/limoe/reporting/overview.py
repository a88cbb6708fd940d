"""The picture of an answer: one row per variant, with the mean over seeds, its interval, and every seed as a dot."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from limoe.reporting.plots import INK, STYLE, drawn
from limoe.reporting.seeds import estimate

_ROW, _LINE, _FRAME = 0.36, 0.15, 0.75  # inches
_BELOW = 0.16  # of a row: the dots are under their interval
_LABEL = 26  # characters of a line of a variant's name


@dataclass(frozen=True)
class Mark:
    """What the seeds of one variant measured. Marks with different labels lie above each other in their row."""

    row: int
    values: Sequence[float]
    color: str
    label: str = ""


@dataclass(frozen=True)
class Panel:
    """One quantity; `percent` where its values are shares of 1, `reference` a dotted line with its name."""

    title: str
    rows: Sequence[str]
    marks: Sequence[Mark]
    percent: bool = False
    reference: tuple[str, float] | None = None


def overview_plot(panels: Sequence[Panel]) -> str:
    """An SVG with the panels below each other, each with its rows from top to bottom."""
    heights = [_FRAME + sum(_ROW + _LINE * name.count("\n") for name in _names(panel)) for panel in panels]
    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(5.2, sum(heights)), layout="constrained")
        found = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
        for axes, panel in zip(found, panels, strict=True):
            _draw(axes, panel)
        return drawn(figure)


def _names(panel: Panel) -> list[str]:
    return ["\n".join(textwrap.wrap(name, _LABEL)) for name in panel.rows]


def _draw(axes: Axes, panel: Panel) -> None:
    names = _names(panel)
    labels = list(dict.fromkeys(mark.label for mark in panel.marks))
    for mark in panel.marks:
        if mark.values:
            offset = 0.38 * (labels.index(mark.label) - (len(labels) - 1) / 2)
            _draw_mark(axes, mark, mark.row + offset)
    if panel.reference is not None:
        axes.axvline(panel.reference[1], linestyle=":", color=INK, linewidth=1.2)
        axes.set_xlabel(f"dotted: {panel.reference[0]}")
    axes.set_title(panel.title)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if panel.percent:
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, -0.005), min(high, 1.02))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    handles, found = axes.get_legend_handles_labels()
    once = dict(zip(found, handles, strict=True))
    if once:
        axes.legend(
            once.values(), once.keys(), loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderpad=0, handlelength=1
        )


def _draw_mark(axes: Axes, mark: Mark, y: float) -> None:
    found = estimate(mark.values)
    look: Any = {"color": mark.color, "linestyle": "none"}
    half = found.half if math.isfinite(found.half) else 0.0
    axes.errorbar(found.mean, y, xerr=half, marker="D", markersize=5, label=mark.label or None, elinewidth=2, **look)
    axes.plot(mark.values, [y + _BELOW] * len(mark.values), marker="o", markersize=3.5, markeredgewidth=0, **look)
