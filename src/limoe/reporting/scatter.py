"""Points without an order between them, and shares as bars: figures of a search."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from limoe.reporting.plots import COLORS, INK, STYLE, data_uri, drawn

_BEST, _OTHER = COLORS[1], COLORS[0]


@dataclass(frozen=True)
class Dot:
    """A value at `x`, the range of what it is a mean of, and whether it is the best. Without a value: a cross on the
    axis."""

    x: float
    y: float | None = None
    low: float | None = None
    high: float | None = None
    best: bool = False


def dots_plot(
    dots: Sequence[Dot],
    *,
    title: str,
    x_label: str,
    y_label: str,
    percent: bool = False,
    log: bool = False,
    names: Sequence[str] = (),
    stairs: Sequence[tuple[float, float]] = (),
) -> str:
    """`log`: of the horizontal axis; `names` stand at 0, 1, ... of it; `stairs` is a line that holds its value."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 2.9), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title)
        if stairs:
            axes.step(*zip(*stairs, strict=True), where="post", color=_BEST, linewidth=1.2, label="best so far")
        _draw(axes, dots)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        if names:
            axes.set_xticks(range(len(names)), names)
            axes.set_xlim(-0.5, len(names) - 0.5)
        elif log:
            _logarithmic(axes)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=all(dot.x == int(dot.x) for dot in dots)))
        figure.legend(loc="outside lower center", ncols=4, handlelength=1.2)
        return data_uri(drawn(figure))


def bars_plot(shares: Mapping[str, float], *, title: str, x_label: str) -> str:
    """One bar per name, the first on top; `shares` are of 1."""
    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(4.4, 1.1 + 0.35 * len(shares)), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title)
        axes.barh(list(shares), list(shares.values()), height=0.6, color=_OTHER)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel(x_label)
        return data_uri(drawn(figure))


def _logarithmic(axes: Axes) -> None:
    """Round numbers on the horizontal axis, as many as have room."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    subs = (1.0, 2.0, 5.0) if decades < 1.3 else (1.0, 3.0) if decades < 2.7 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw(axes: Axes, dots: Sequence[Dot]) -> None:
    for best, color, label in ((False, _OTHER, "point"), (True, _BEST, "best")):
        group = [(dot.x, dot.y, dot) for dot in dots if dot.y is not None and dot.best == best]
        if group:
            below = [y - (y if dot.low is None else dot.low) for _, y, dot in group]
            above = [(y if dot.high is None else dot.high) - y for _, y, dot in group]
            look: Any = {"fmt": "o", "markersize": 5, "elinewidth": 1.2, "color": color, "label": label}
            ranges = [below, above] if any((*below, *above)) else None
            axes.errorbar([x for x, _, _ in group], [y for _, y, _ in group], yerr=ranges, **look)
    if failed := [dot.x for dot in dots if dot.y is None]:
        place: Any = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        axes.plot(failed, [0.0] * len(failed), "x", color=INK, markersize=6, label="no value", **place)
