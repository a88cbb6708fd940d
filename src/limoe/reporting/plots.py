"""Figures as SVG data URIs: no files, no global state of matplotlib, readable on light and dark pages."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from limoe.reporting.run_folder import Curve
from limoe.reporting.svg import data_uri, slim

IMAGE_COLOR, TEXT_COLOR = "#0072b2", "#d55e00"  # Okabe and Ito: told apart by colour-blind readers too
COLORS = (IMAGE_COLOR, TEXT_COLOR, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MAX_POINTS = 500  # longer curves are drawn as means of neighbouring points
_FEW = 25  # points up to which each one is marked

INK, _GRID = "#24292f", "#d0d7de"
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "limoe",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
_DARK = {INK: "#e6edf3", _GRID: "#3d444d"}


@dataclass(frozen=True)
class Line:
    """One curve of a figure."""

    label: str
    curve: Curve
    color: str
    style: str = "-"


@dataclass(frozen=True)
class Band:
    """The curves of one variant over seeds: mean, and the range between the seeds. `x` may be any quantity."""

    label: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    color: str
    style: str = "-"


def bands_plot(
    bands: Sequence[Band],
    *,
    title: str,
    x_label: str,
    y_label: str,
    percent: bool = False,
    reference: tuple[str, float] | None = None,
) -> str:
    """Mean curves with the range between seeds; `reference` as in `lines_plot`."""
    with matplotlib.rc_context(STYLE):
        columns = _legend_columns([band.label for band in bands])
        figure, axes = _figure(title, height=2.9 + 0.2 * (math.ceil(len(bands) / columns) - 1))
        for band in bands:
            marker = "." if len(band.x) <= _FEW else None
            look: Any = {"color": band.color, "linewidth": 1.5, "marker": marker, "markersize": 4}
            axes.plot(band.x, band.mean, band.style, label=band.label, **look)
            axes.fill_between(band.x, band.low, band.high, color=band.color, alpha=0.18, linewidth=0)
        if reference is not None:
            axes.axhline(reference[1], linestyle=":", color=INK, linewidth=1.2, label=reference[0])
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            axes.set_ylim(0, min(1.02, axes.get_ylim()[1]))
        figure.legend(loc="outside lower center", ncols=columns, handlelength=1.6)
        return data_uri(drawn(figure))


def lines_plot(
    lines: Sequence[Line],
    *,
    title: str,
    y_label: str,
    percent: bool = False,
    y_max: float | None = None,
    reference: tuple[str, float] | None = None,
) -> str:
    """Curves over training steps; `reference` is a dotted horizontal line with its name.

    The y axis begins at zero for shares (`percent`) and where `y_max` says how far it goes, so that figures compare.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(title)
        for line in lines:
            steps, values = thinned(line.curve)
            marker = "o" if len(steps) == 1 else None
            axes.plot(
                steps,
                values,
                line.style,
                color=line.color,
                label=line.label,
                linewidth=1.5,
                marker=marker,
                markersize=4,
            )
        if reference is not None:
            axes.axhline(reference[1], linestyle=":", color=INK, linewidth=1.2, label=reference[0])
        axes.set_xlabel("training step")
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        if percent or y_max is not None:
            axes.set_ylim(0, y_max if y_max is not None else min(1.02, axes.get_ylim()[1]))
        entries = len(lines) + (reference is not None)
        if entries > 1:
            figure.legend(loc="outside lower center", ncols=2 if entries == 4 else 3, handlelength=1.6)
        return data_uri(drawn(figure))


def share_plot(
    *, image: Sequence[float], text: Sequence[float], title: str, assignments: tuple[int, int] = (1, 1)
) -> str:
    """Above: share of each modality's assignments per expert. Below: whom an expert serves.

    `assignments` says how many there are of image and text; equal numbers weigh the modalities equally.
    """
    experts = range(max(len(image), len(text)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 3.8), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        top.set_title(title)
        for shares, offset, color, label in ((image, -0.2, IMAGE_COLOR, "image"), (text, 0.2, TEXT_COLOR, "text")):
            top.bar([i + offset for i in range(len(shares))], shares, width=0.4, color=color, label=label)
        top.axhline(1 / max(len(experts), 1), linestyle=":", color=INK, linewidth=1.2, label="equal shares")
        top.set_ylabel("share of tokens")
        top.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        _mix(bottom, [share * assignments[0] for share in image], [share * assignments[1] for share in text])
        bottom.set_xlabel("expert")
        bottom.xaxis.set_major_locator(MaxNLocator(16, integer=True))
        top.tick_params(axis="x", length=0)
        handles, labels = top.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, handlelength=1.2)
        return data_uri(drawn(figure))


def thinned(curve: Curve, *, limit: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """Steps and values in order, at most `limit`: means of neighbours. A NaN stays one, as a gap."""
    points = sorted(curve.items())
    size = math.ceil(len(points) / limit) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [_mean([s for s, _ in group]) for group in groups], [_mean([v for _, v in group]) for group in groups]


def layer_color(position: int, count: int) -> str:
    """A colour between dark blue and green, by depth."""
    return matplotlib.colors.to_hex(matplotlib.colormaps["viridis"](0.25 + 0.5 * position / max(count - 1, 1)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _legend_columns(labels: Sequence[str]) -> int:
    longest = max(map(len, labels), default=0)
    return 3 if longest <= 14 else 2 if longest <= 24 else 1


def _figure(title: str, *, height: float = 2.9) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.4, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _mix(axes: Axes, image: Sequence[float], text: Sequence[float]) -> None:
    """Assignments per expert, stacked to 100 %; an expert that nobody chose has no bar."""
    both = [(i, a, b) for i, (a, b) in enumerate(zip(image, text, strict=False)) if a + b > 0]
    where = [i for i, _, _ in both]
    images = [a / (a + b) for _, a, b in both]
    axes.bar(where, images, width=0.8, color=IMAGE_COLOR)
    axes.bar(where, [1 - share for share in images], width=0.8, bottom=images, color=TEXT_COLOR)
    axes.set_ylabel("mix")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def drawn(figure: Figure) -> str:
    """The figure as a small SVG that suits light and dark pages."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    return slim(svg[svg.index("<svg") :], dark=_DARK)  # without the prologue, whose DTD is an address on the web
