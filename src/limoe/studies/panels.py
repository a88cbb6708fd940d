"""Figures that a study defines itself: a metric of its variants against compute, size, or a config key."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from omegaconf import DictConfig, OmegaConf

from limoe.errors import DataError
from limoe.reporting.findings import SHARE
from limoe.reporting.plots import COLORS, Line, lines_svg
from limoe.reporting.seeds import band
from limoe.studies.cost import FLOP_UNITS, Cost, unit_of
from limoe.studies.results import Row
from limoe.studies.study import FILE, Panel, Study
from limoe.studies.tables import values

_COUNTS = {"million ": 1e6, "thousand ": 1e3, "": 1.0}
# name: label, units with their sizes, and the amount of a variant
QUANTITIES: dict[str, tuple[str, Mapping[str, float], Callable[[Cost], float]]] = {
    "flops": ("FLOP of training", FLOP_UNITS, lambda cost: cost.flops),
    "steps": ("training steps", {"": 1.0}, lambda cost: cost.max_steps),
    "parameters": ("parameters", _COUNTS, lambda cost: cost.parameters),
    "pairs": ("pairs seen", _COUNTS, lambda cost: cost.pairs_per_step * cost.max_steps),
}
_MARKERS = "osD^vPX<>*"
_STYLES = ("-", "--")


def check_panels(study: Study, configs: Mapping[str, DictConfig]) -> None:
    """Raise `DataError` for a figure over a config key that is no number in all its variants, or not > 0 if `log`."""
    for panel in study.figures:
        rule = f"must be {', '.join(QUANTITIES)} or a config key that is a number{' > 0' if panel.log else ''}"
        for variant in [name for members in panel.lines.values() for name in members if name in configs]:
            value = 1 if panel.x in QUANTITIES else OmegaConf.select(configs[variant], panel.x)
            if type(value) not in (int, float) or (panel.log and value <= 0):
                where = f"{FILE}: figures.{panel.name}.x={panel.x}"
                raise DataError(f"{where} {rule} in each of its variants, got {value!r} in {variant}")


def panel_svg(
    panel: Panel,
    study: Study,
    rows: Sequence[Row],
    costs: Sequence[Cost],
    *,
    configs: Mapping[str, DictConfig],
    chance: Mapping[str, float],
) -> str:
    """The figure as SVG: means over seeds with `band`, every seed as a dot; empty without any result.

    Lines with the same name up to a comma, such as "sparse, width 32", have the same style.
    """
    metric = next(metric for metric in study.metrics if metric.key == panel.metric)
    share = bool(SHARE.search(metric.key))
    label, amounts = _amounts(panel, costs, configs)
    families = list(dict.fromkeys(name.partition(",")[0] for name in panel.lines))
    lines = []
    for number, (name, members) in enumerate(panel.lines.items()):
        found = {variant: list(values(rows, variant, metric.key).values()) for variant in members}
        points = sorted((amounts[variant], own) for variant, own in found.items() if own and variant in amounts)
        low, high = zip(*(band(own, share=share) for _, own in points), strict=True) if points else ((), ())
        look: Any = {
            "color": COLORS[number],
            "style": _STYLES[families.index(name.partition(",")[0]) % len(_STYLES)],
            "marker": _MARKERS[number],
        }
        dots = [(x, y) for x, own in points for y in own]
        means = [fmean(own) for _, own in points]
        lines.append(Line(name, [x for x, _ in points], means, low=low, high=high, dots=dots, **look))
    drawn = [line for line in lines if line.dots]
    look = {"percent": share, "reference": ("chance", chance[metric.key]) if metric.key in chance else None}
    return (
        lines_svg(drawn, title=panel.title, x_label=label, y_label=metric.name, log=panel.log, **look) if drawn else ""
    )


def _amounts(panel: Panel, costs: Sequence[Cost], configs: Mapping[str, DictConfig]) -> tuple[str, dict[str, float]]:
    """Label of the x axis with its unit, and the value in this unit by variant."""
    members = {name for own in panel.lines.values() for name in own}
    if panel.x not in QUANTITIES:
        found = {name: float(OmegaConf.select(cfg, panel.x)) for name, cfg in configs.items() if name in members}
        return panel.x_label or panel.x, found
    label, units, amount = QUANTITIES[panel.x]
    found = {cost.variant: float(amount(cost)) for cost in costs if cost.variant in members}
    unit = unit_of(units, largest=max(found.values(), default=0.0))
    scaled = {name: value / units[unit] for name, value in found.items()}
    return f"{panel.x_label} ({unit}{label})" if panel.x_label else f"{unit}{label}", scaled
