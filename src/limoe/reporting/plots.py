"""Figures as SVG for light and dark pages, without files or global state of matplotlib."""

import base64
import io
import itertools
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator, PercentFormatter
from PIL import Image

from limoe.runs.folder import Curve

COLORS = tuple(map(to_hex, matplotlib.color_sequences["petroff10"]))  # distinct for colour-blind readers too
IMAGE_COLOR, TEXT_COLOR = COLORS[:2]
MAX_POINTS = 500  # longer curves are drawn as means of neighbouring points
_TICKS = 8  # largest number of values that a logarithmic axis names
_FEW = 25  # largest number of points with a marker each
_TITLE, _SIDE = 44, 26  # characters of a line of a title, and of the label of the y axis

STYLE: Any = matplotlib.rc_params_from_file(Path(__file__).with_name("report.mplstyle"), use_default_template=False)
INK, _GRID = STYLE["text.color"], STYLE["grid.color"]
_DARK = {INK: "#e6edf3", _GRID: "#3d444d"}
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


@dataclass(frozen=True)
class Line:
    """One curve of a figure; `low` and `high`: the range around a mean, if any. `x` may be any quantity.

    `dots` are single points (x, y) beside the curve, such as those of the seeds.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: str
    style: str = "-"
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    marker: str = ""
    dots: Sequence[tuple[float, float]] = ()


def lines_plot(lines: Sequence[Line], **look: Any) -> str:
    """The plot of `lines_svg` as a data URI."""
    return data_uri(lines_svg(lines, **look))


def lines_svg(
    lines: Sequence[Line],
    *,
    title: str,
    y_label: str,
    x_label: str = "training step",
    percent: bool = False,
    y_max: float | None = None,
    reference: tuple[str, float] | None = None,
    log: bool = False,
) -> str:
    """Plot of curves as SVG; `reference`: name and height of a dotted horizontal line; `log`: of the x axis.

    The y axis begins at zero for shares (`percent`) and with `y_max`, its upper end, so that figures are comparable.
    """
    entries = [line.label for line in lines] + ([] if reference is None else [reference[0]])
    longest = max(map(len, entries), default=0)
    columns = 1 if longest > 24 else 2 if longest > 14 or len(entries) == 4 else 3
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 2.7 + 0.2 * math.ceil(len(entries) / columns)), layout="constrained")
        axes = figure.subplots()
        axes.set_title(textwrap.fill(title, _TITLE))
        for line in lines:
            look: Any = {"color": line.color, "linewidth": 1.5, "markersize": 3}
            marker = line.marker or ("o" if len(line.x) <= _FEW else None)
            axes.plot(line.x, line.y, line.style, label=line.label, marker=marker, **look)
            if line.dots:
                axes.plot(*zip(*line.dots, strict=True), "o", color=line.color, markersize=2, alpha=0.6)
            if len(line.x) == 1 and line.low:
                axes.vlines(line.x, line.low, line.high, color=line.color, alpha=0.35, linewidth=5)
            elif line.low:
                axes.fill_between(line.x, line.low, line.high, color=line.color, alpha=0.18, linewidth=0)
        if reference is not None:
            axes.axhline(reference[1], linestyle=":", color=INK, linewidth=1.2, label=reference[0])
        axes.set_xlabel(x_label)
        axes.set_ylabel(textwrap.fill(y_label, _SIDE))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=all(x == int(x) for line in lines for x in line.x)))
        if log:
            _log_axis(axes, sorted({x for line in lines for x in line.x}))
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        if percent or y_max is not None:
            axes.set_ylim(0, y_max if y_max is not None else min(1.02, axes.get_ylim()[1]))
        if len(entries) > 1:
            figure.legend(loc="outside lower center", ncols=columns, handlelength=1.6)
        return drawn(figure)


def share_plot(
    *, image: Sequence[float], text: Sequence[float], title: str, assignments: tuple[int, int] = (1, 1)
) -> str:
    """Two plots as a data URI: share of each modality's assignments per expert, and modality mix of each expert.

    `assignments`: number of image and text assignments; equal numbers weigh the modalities equally.
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


def thinned(curve: Curve, *, limit: int = MAX_POINTS, size: int = 0) -> tuple[list[float], list[float]]:
    """Steps and values in order, as means of `size` neighbours, by default so that at most `limit` remain.

    A mean with NaN is NaN.
    """
    points = sorted(curve.items())
    size = size or math.ceil(len(points) / limit) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [fmean(s for s, _ in group) for group in groups], [fmean(v for _, v in group) for group in groups]


def layer_color(position: int, count: int) -> str:
    """A colour between dark blue and green, by depth."""
    return to_hex(matplotlib.colormaps["viridis"](0.25 + 0.5 * position / max(count - 1, 1)))


def drawn(figure: Figure) -> str:
    """The figure as SVG with colours for light and dark pages."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    svg = _NOT_XML.sub("\ufffd", buffer.getvalue())
    start = svg.index("<svg")  # drop the prologue, which names a DTD by a web address
    end = svg.index(">", start) + 1
    rules = "".join(
        f'[style*="{name}: {light}"]{{{name}:{dark} !important}}'
        for light, dark in _DARK.items()
        for name in ("fill", "stroke")
    )
    return f"{svg[start:end]}<style>@media (prefers-color-scheme:dark){{{rules}}}</style>{svg[end:]}"


def data_uri(svg: str) -> str:
    """The SVG as a data URI without characters that HTML must escape."""
    return f"data:image/svg+xml,{quote(svg, safe=' =:/;,.()+*!?@')}"


def image_uri(image: Image.Image, *, kind: str, **settings: Any) -> str:
    """Data URI of an image encoded as `kind`; `settings` go to Pillow's `save`."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **settings)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _log_axis(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis with plain numbers: the values themselves if they are few and apart, else 1, 2, 5, 10 ..."""
    axes.set_xscale("log")
    apart = len(values) <= _TICKS and all(b >= 1.25 * a for a, b in itertools.pairwise(values))
    axes.xaxis.set_major_locator(FixedLocator(list(values)) if apart else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.3g}" if value < 1000 else f"{value:,.0f}")
    axes.xaxis.set_minor_locator(NullLocator())


def _mix(axes: Axes, image: Sequence[float], text: Sequence[float]) -> None:
    """Assignments per expert by modality, stacked to 100 %; an expert without assignments has no bar."""
    both = [(i, a, b) for i, (a, b) in enumerate(zip(image, text, strict=False)) if a + b > 0]
    where = [i for i, _, _ in both]
    image_share = [a / (a + b) for _, a, b in both]
    axes.bar(where, image_share, width=0.8, color=IMAGE_COLOR)
    axes.bar(where, [1 - share for share in image_share], width=0.8, bottom=image_share, color=TEXT_COLOR)
    axes.set_ylabel("mix")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
