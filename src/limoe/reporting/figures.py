"""Figures of a report of a run, drawn by `plots.py`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limoe.reporting.findings import last_health
from limoe.reporting.plots import COLORS, Line, layer_color, lines_plot, share_plot, thinned
from limoe.runs.folder import Curve, Health, RunFolder
from limoe.types import MODALITIES

_LOSSES = ("train/loss", "train/contrastive", "val/loss")
_DIRECTIONS = {"i2t": "text found by image", "t2i": "image found by text"}


@dataclass(frozen=True)
class Figure:
    """A figure for the page: a data URI and the alternative text; `axis`: its horizontal axis, to select figures by."""

    source: str
    alt: str
    axis: str = ""


def learning_figures(run: RunFolder) -> list[Figure]:
    """Losses, then zero-shot accuracy and recall of each evaluation task, by training step."""
    figures = _curves(run, {key: key for key in _LOSSES}, alt="Loss over training steps", title="Loss", y_label="nats")
    tasks = sorted({key.split("/")[1] for key in run.curves if key.startswith("val/") and key.count("/") == 2})
    for task in tasks:
        title = f"Zero-shot accuracy, {task}"
        names = {f"val/{task}/zeroshot_{name}": name.replace("_", " ") for name in ("top1", "top5", "class_mean")}
        look = {"y_label": "share of images", "percent": True, "reference": _chance(run, names, 0)}
        figures += _curves(run, names, alt=f"{title}, over training steps", title=title, **look)
    for task in tasks:
        for way, words in _DIRECTIONS.items():
            names = {f"val/{task}/{way}_r{k}": f"R@{k}" for k in (1, 5, 10)}
            look = {"y_label": "share of queries", "percent": True, "reference": _chance(run, names, -1)}
            alt = f"Recall, {words}, {task}, over training steps"
            figures += _curves(run, names, alt=alt, title=f"{words.capitalize()}, {task}", **look)
    return figures


def share_figures(run: RunFolder) -> list[Figure]:
    """Per layer, at the last logged step: load of the experts by modality, and modality mix of each expert."""
    rows = {(row.layer, row.modality): row for row in last_health(run)}
    figures = []
    for layer in sorted({layer for layer, _ in rows}):
        image, text = (rows.get((layer, modality)) for modality in MODALITIES)
        plot = share_plot(
            image=image.load if image else (),
            text=text.load if text else (),
            title=f"Layer {layer}",
            assignments=(image.assignments if image else 0, text.assignments if text else 0),
        )
        figures.append(Figure(plot, f"Share of image and text tokens per expert in layer {layer}"))
    return figures


def router_figures(run: RunFolder) -> list[Figure]:
    """Success rate and both entropies by training step: one figure per modality, one line per layer."""
    uniform = math.log(max([2, *(len(row.load) for row in run.health)]))
    entropy: dict[str, Any] = {"y_label": "nats", "y_max": 1.05 * uniform, "reference": ("uniform", uniform)}
    return [
        *_by_modality(run.health, "success rate", y_label="share with a slot", percent=True, y_max=1.02),
        *_by_modality(run.health, "local entropy", **entropy),
        *_by_modality(run.health, "global entropy", **entropy),
    ]


def aux_figures(run: RunFolder) -> list[Figure]:
    """Normalised auxiliary losses, shares of the losses in the routers' gradient, and raw values, by training step."""
    normalised, shares, raw = (_below(run, f"train/{name}/") for name in ("aux_normalised", "grad_share", "aux"))
    alt = "Normalised auxiliary losses over training steps; 1 is balanced"
    look: dict[str, Any] = {"y_label": "1 = balanced", "reference": ("balanced", 1.0)}
    figures = _curves(run, normalised, alt=alt, title="Normalised", **look)
    alt = "Share of each loss in the routers' gradient over training steps"
    look = {"y_label": "share of norms", "percent": True}
    figures += _curves(run, shares, alt=alt, title="Share of the routers' gradient", **look)
    for key, name in raw.items():
        figures += _curves(run, {key: name}, alt=f"{key} over training steps", title=name, y_label="raw value")
    return figures


def _below(run: RunFolder, prefix: str) -> dict[str, str]:
    """Logged keys with this prefix, mapped to the rest of the key as their label."""
    return {key: key.removeprefix(prefix) for key in sorted(run.curves) if key.startswith(prefix)}


def _chance(run: RunFolder, names: Mapping[str, str], which: int) -> tuple[str, float] | None:
    """Name and chance level of curve number `which`; None if it is unknown."""
    key, label = list(names.items())[which]
    return (f"chance ({label})", run.chance[key]) if key in run.chance else None


def _curves(run: RunFolder, names: Mapping[str, str], *, alt: str, **look: Any) -> list[Figure]:
    """A list with one figure of the curves that exist, empty without any; `names` maps metrics to labels."""
    lines = [
        _line(label, run.curves[key], COLORS[i % len(COLORS)], style="--" if key.endswith("class_mean") else "-")
        for i, (key, label) in enumerate(names.items())
        if key in run.curves
    ]
    return [Figure(lines_plot(lines, **look), alt)] if lines else []


def _line(label: str, curve: Curve, color: str, *, style: str = "-") -> Line:
    steps, values = thinned(curve)
    return Line(label, steps, values, color, style)


def _by_modality(health: Sequence[Health], quantity: str, **look: Any) -> list[Figure]:
    """One figure per modality with entries. Entropies are in nats, success rates are shares of assignments."""
    figures = []
    for modality in MODALITIES:
        layers = sorted({row.layer for row in health if row.modality == modality})
        lines = []
        for position, layer in enumerate(layers):
            own = [row for row in health if (row.layer, row.modality) == (layer, modality)]
            curve = {row.step: float(getattr(row, quantity.replace(" ", "_"))) for row in own}
            lines.append(_line(f"layer {layer}", curve, layer_color(position, len(layers))))
        if lines:
            title = quantity.capitalize()
            plot = lines_plot(lines, title=f"{title}, {modality}", **look)
            figures.append(Figure(plot, f"{title} of {modality} tokens per layer over training steps"))
    return figures
