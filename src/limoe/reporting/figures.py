"""Which figures a report shows, and what each one says. How they are drawn is in `plots.py`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from limoe.reporting.findings import last_health
from limoe.reporting.plots import COLORS, Line, layer_color, lines_plot, share_plot
from limoe.reporting.run_folder import Health, RunFolder
from limoe.types import MODALITIES

_LOSSES = ("train/loss", "train/contrastive", "val/loss")
_DIRECTIONS = {"i2t": "text found by picture", "t2i": "picture found by text"}


@dataclass(frozen=True)
class Picture:
    """A figure for the page: a data URI, and the words for those who can't see it."""

    source: str
    alt: str


def learning_figures(run: RunFolder) -> list[Picture]:
    """Losses, then per evaluation task zero-shot accuracy or recall."""
    lines = _lines(run, {key: key for key in _LOSSES})
    pictures = [Picture(lines_plot(lines, title="Loss", y_label="nats"), "Loss over training steps")] if lines else []
    tasks = sorted({key.split("/")[1] for key in run.curves if key.startswith("val/") and key.count("/") == 2})
    for draw in (_accuracy, _recall):
        pictures += [picture for task in tasks for picture in draw(run, task)]
    return pictures


def share_figures(run: RunFolder) -> list[Picture]:
    """Per layer, at the last logged step: how each modality spreads over the experts, and whom each expert serves."""
    rows = {(row.layer, row.modality): row for row in last_health(run)}
    pictures = []
    for layer in sorted({layer for layer, _ in rows}):
        image, text = (rows.get((layer, modality)) for modality in MODALITIES)
        plot = share_plot(
            image=image.load if image else (),
            text=text.load if text else (),
            title=f"Layer {layer}",
            assignments=(image.assignments if image else 0, text.assignments if text else 0),
        )
        pictures.append(Picture(plot, f"Share of image and text tokens per expert in layer {layer}"))
    return pictures


def router_figures(run: RunFolder) -> list[Picture]:
    """Success rate and both entropies over time, a figure per modality with a line per layer."""
    experts = max((len(row.load) for row in run.health), default=0)
    uniform = math.log(max(experts, 2))
    return [
        *_by_modality(run.health, "success_rate", title="Success rate", y_max=1.02),
        *_by_modality(
            run.health, "local_entropy", title="Local entropy", y_max=1.05 * uniform, reference=("uniform", uniform)
        ),
        *_by_modality(
            run.health, "global_entropy", title="Global entropy", y_max=1.05 * uniform, reference=("uniform", uniform)
        ),
    ]


def aux_figures(run: RunFolder) -> list[Picture]:
    """What the auxiliary losses say about balance and who moves the routers, then each one's raw value."""
    normalised, shares = _by_name(run, "train/aux_normalised/"), _by_name(run, "train/grad_share/")
    pictures = []
    if normalised:
        plot = lines_plot(normalised, title="Normalised", y_label="1 = balanced", reference=("balanced", 1.0))
        pictures.append(Picture(plot, "Normalised auxiliary losses over training steps; 1 is balanced"))
    if shares:
        plot = lines_plot(shares, title="Share of the routers' gradient", y_label="share of norms", percent=True)
        pictures.append(Picture(plot, "Share of each loss in the routers' gradient over training steps"))
    return pictures + [
        Picture(
            lines_plot(
                [Line(key, run.curves[key], COLORS[0])], title=key.removeprefix("train/aux/"), y_label="raw value"
            ),
            f"{key} over training steps",
        )
        for key in sorted(run.curves)
        if key.startswith("train/aux/")
    ]


def _lines(run: RunFolder, keys: dict[str, str]) -> list[Line]:
    """The curves that exist; `keys` maps a metric to its label."""
    return [
        Line(label, run.curves[key], COLORS[i % len(COLORS)], style="--" if key.endswith("class_mean") else "-")
        for i, (key, label) in enumerate(keys.items())
        if key in run.curves
    ]


def _by_name(run: RunFolder, prefix: str) -> list[Line]:
    return _lines(run, {key: key.removeprefix(prefix) for key in sorted(run.curves) if key.startswith(prefix)})


def _accuracy(run: RunFolder, task: str) -> list[Picture]:
    keys = {f"val/{task}/zeroshot_{name}": name.replace("_", " ") for name in ("top1", "top5", "class_mean")}
    lines = _lines(run, keys)
    chance = run.chance.get(f"val/{task}/zeroshot_top1")
    reference = ("chance (top1)", chance) if chance is not None else None
    title = f"Zero-shot accuracy, {task}"
    if not lines:
        return []
    plot = lines_plot(lines, title=title, y_label="share of pictures", percent=True, reference=reference)
    return [Picture(plot, f"{title}, over training steps")]


def _recall(run: RunFolder, task: str) -> list[Picture]:
    pictures = []
    for way, words in _DIRECTIONS.items():
        lines = _lines(run, {f"val/{task}/{way}_r{k}": f"R@{k}" for k in (1, 5, 10)})
        chance = run.chance.get(f"val/{task}/{way}_r10")
        reference = ("chance (R@10)", chance) if chance is not None else None
        title = f"{words.capitalize()}, {task}"
        if lines:
            plot = lines_plot(lines, title=title, y_label="share of queries", percent=True, reference=reference)
            pictures.append(Picture(plot, f"Recall, {words}, {task}, over training steps"))
    return pictures


def _by_modality(
    health: Sequence[Health],
    quantity: str,
    *,
    title: str,
    y_max: float,
    reference: tuple[str, float] | None = None,
) -> list[Picture]:
    """One figure per modality that has entries. Entropies are in nats, success rates shares of assignments."""
    percent = quantity == "success_rate"
    pictures = []
    for modality in MODALITIES:
        layers = sorted({row.layer for row in health if row.modality == modality})
        lines = [
            Line(
                f"layer {layer}",
                {row.step: getattr(row, quantity) for row in health if (row.layer, row.modality) == (layer, modality)},
                layer_color(position, len(layers)),
            )
            for position, layer in enumerate(layers)
        ]
        if lines:
            y_label = "share with a seat" if percent else "nats"
            plot = lines_plot(
                lines,
                title=f"{title}, {modality}",
                y_label=y_label,
                percent=percent,
                y_max=y_max,
                reference=reference,
            )
            pictures.append(Picture(plot, f"{title} of {modality} tokens per layer over training steps"))
    return pictures
