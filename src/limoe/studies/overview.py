"""Overview figure of a study: one row per variant, one dot per seed."""

import textwrap
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from limoe.reporting.findings import SHARE
from limoe.reporting.plots import IMAGE_COLOR, INK, STYLE, TEXT_COLOR, drawn
from limoe.reporting.seeds import band
from limoe.studies.curves import variant_color
from limoe.studies.results import Row
from limoe.studies.study import Study
from limoe.studies.tables import values
from limoe.types import MODALITIES

_ROW, _LINE, _FRAME = 0.36, 0.15, 0.75  # inches
_BELOW = 0.16  # of a row: distance of the dots below their interval
_LABEL = 26  # characters of a line of a variant's name
_RATES = {"image": IMAGE_COLOR, "text": TEXT_COLOR}


def answer_plot(study: Study, rows: Sequence[Row], *, chance: Mapping[str, float]) -> str:
    """SVG with the first metric of every variant and the success rates of sparse variants, by modality."""
    metric = study.metrics[0]
    variants = sorted(study.shown, key=lambda name: name != study.baseline)  # the baseline first
    rates = {
        variant: {name: found for name in MODALITIES if (found := _seeds(rows, variant, f"router/{name}/success_rate"))}
        for variant in variants
    }
    sparse = [variant for variant in variants if rates[variant]]
    heights = [_FRAME + sum(_ROW + _LINE * _wrapped(name).count("\n") for name in part) for part in (variants, sparse)]
    heights = heights[: 2 if sparse else 1]
    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(5.2, sum(heights)), layout="constrained")
        panels = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
        for number, variant in enumerate(variants):
            found = _seeds(rows, variant, metric.key)
            _draw(panels[0], found, y=number, color=variant_color(study, variant), share=bool(SHARE.search(metric.key)))
        _frame(panels[0], variants, title=metric.name, percent=bool(SHARE.search(metric.key)))
        if metric.key in chance:
            panels[0].axvline(chance[metric.key], linestyle=":", color=INK, linewidth=1.2)
            panels[0].set_xlabel("dotted: chance")
        for number, variant in enumerate(sparse):
            for name, found in rates[variant].items():
                y = number + (-0.19 if name == "image" else 0.19)
                label = None if any(name in rates[other] for other in sparse[:number]) else name
                _draw(panels[1], found, y=y, color=_RATES[name], label=label)
        if sparse:
            _frame(panels[1], sparse, title="success rate", percent=True)
            panels[1].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderpad=0, handlelength=1)
        return drawn(figure)


def _seeds(rows: Sequence[Row], variant: str, key: str) -> list[float]:
    return list(values(rows, variant, key).values())


def _wrapped(name: str) -> str:
    return "\n".join(textwrap.wrap(name, _LABEL))


def _draw(
    axes: Axes, found: Sequence[float], *, y: float, color: str, label: str | None = None, share: bool = True
) -> None:
    """Draw the mean with its interval (the range of two seeds), and a dot per seed below it."""
    if not found:
        return
    mean = fmean(found)
    low, high = band(found, share=share)
    look: Any = {"color": color, "linestyle": "none"}
    axes.errorbar(
        mean, y, xerr=[[mean - low], [high - mean]], marker="D", markersize=5, label=label, elinewidth=2, **look
    )
    axes.plot(found, [y + _BELOW] * len(found), marker="o", markersize=3.5, markeredgewidth=0, **look)


def _frame(axes: Axes, names: Sequence[str], *, title: str, percent: bool) -> None:
    axes.set_title(title)
    axes.set_yticks(range(len(names)), [_wrapped(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if percent:
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, -0.005), min(high, 1.02))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
