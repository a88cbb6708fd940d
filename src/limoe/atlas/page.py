"""The atlas as one HTML page without scripts, made of the record and its images."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import UInt8
from matplotlib.colors import to_hex
from PIL import Image

from limoe.atlas.patches import PER_IMAGE
from limoe.atlas.survey import Survey
from limoe.reporting.figures import Figure
from limoe.reporting.plots import IMAGE_COLOR, TEXT_COLOR, Line, image_uri, lines_plot
from limoe.reporting.templates import template
from limoe.types import MODALITIES

_OPEN_LAYERS = 4  # layers shown unfolded
_COLORS = dict(zip(MODALITIES, (IMAGE_COLOR, TEXT_COLOR), strict=True))
_DEPTH = (
    ("local_entropy", "Local entropy", "nats", "ln E"),
    ("global_entropy", "Global entropy", "nats", "ln E"),
    ("effective_experts", "Effective experts", "experts", "E"),
    ("top_gate", "Largest gate of a token", "gate", "1 / E"),
)


def render(found: Survey, *, about: dict[str, Any]) -> str:
    """HTML of the page; `about` describes the run. Captions and words are escaped."""
    record = found.record
    layers = record["layers"]
    return template("atlas/atlas.html.j2", share=share, points=points).render(
        about=about,
        record=record,
        headline=headline(record),
        colours=palette(max(len(layer["experts"]) for layer in layers)),
        image_colour=IMAGE_COLOR,
        text_colour=TEXT_COLOR,
        open_layers=_OPEN_LAYERS,
        depth=depth_figures(layers),
        patches=_patches(found),
        images={e["pair"]: pixels_uri(found.images[e["pair"]].numpy()) for e in record["examples"]},
        per_image=PER_IMAGE,
        scale=_scale(record["knock_out"]),
        most_dropped=_most_dropped(record["drops"]),
    )


def headline(record: dict[str, Any]) -> str:
    """One sentence: number of text experts, and the expert with the largest knock-out loss."""
    layers = record["layers"]
    experts = [expert for layer in layers for expert in layer["experts"]]
    sentence = f"{len(experts)} experts in {len(layers)} sparse layer{'s' if len(layers) > 1 else ''}"
    if any(len(layer["statistics"]) > 1 for layer in layers):
        sentence += f", {sum(expert['is_text_expert'] for expert in experts)} of them text experts"
    if record["knock_out"] is None:
        return f"{sentence}."
    rows = [(layer["name"], row) for layer in layers for row in record["knock_out"]["layers"][layer["layer"]]]
    name, worst = min(rows, key=lambda row: row[1]["difference"])
    loss = f"{points(worst['difference'])} points of top-1 ({points(worst['low'])} to {points(worst['high'])})"
    return f"{sentence}. Largest loss without a single one: expert {worst['expert']} of {name}, {loss}."


def share(value: float | None, digits: int = 0) -> str:
    """`12 %`; `< 1 %` for a positive value that rounds to 0; a dash for None."""
    if value is None:
        return "–"
    smallest = 10.0**-digits
    return f"< {smallest:g} %" if 0 < 100 * value < smallest / 2 else f"{100 * value:.{digits}f} %"


def points(value: float) -> str:
    """A difference of two shares in points with its sign, as in `−3.3`."""
    text = f"{100 * value:+.1f}".replace("-", "−")
    return "0.0" if text in ("−0.0", "+0.0") else text


def palette(count: int) -> list[str]:
    """A colour for each expert: tab20, strong ones first, then turbo in steps of the golden ratio.

    The first colours of a longer palette are those of a shorter one. Neighbours among more than about 20 can be
    confused: show numbers as well.
    """
    tab20 = matplotlib.color_sequences["tab20"]
    steps = [0.1 + 0.8 * (i * 0.618034 % 1) for i in range(max(count - 20, 0))]
    colors = [*tab20[::2], *tab20[1::2], *matplotlib.colormaps["turbo"](steps)]
    return [to_hex(color) for color in colors[:count]]


def _patches(found: Survey) -> dict[tuple[int, int], list[tuple[str, dict[str, Any]]]]:
    """Data URI and place of each patch, by layer and expert."""
    if found.grid is None:
        return {}
    return {
        (layer["layer"], expert["expert"]): [(pixels_uri(found.grid.of(p)), p) for p in expert.get("patches", ())]
        for layer in found.record["layers"]
        for expert in layer["experts"]
    }


def _scale(knock_out: dict[str, Any] | None) -> float:
    """Largest absolute end of the knock-out intervals: the scale of their axis, to either side of zero."""
    rows = [row for rows in knock_out["layers"].values() for row in rows] if knock_out else []
    return max((abs(row[end]) for row in rows for end in ("low", "high")), default=0.0) or 0.01


def _most_dropped(drops: dict[str, Any] | None) -> float:
    """Largest share of dropped tokens at any position: the darkest cell of the heat map."""
    cells: list[float] = []
    for layer in drops["layers"].values() if drops else ():
        cells += [c or 0.0 for row in layer.get("image", {}).get("by_position", ()) for c in row]
        cells += [c or 0.0 for c in layer.get("text", {}).get("by_position", ())]
    return max(cells, default=0.0) or 1.0


def pixels_uri(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """Data URI of the pixels as lossless WebP."""
    return image_uri(Image.fromarray(pixels), kind="webp", lossless=True, quality=100, method=6)


def depth_figures(layers: Sequence[dict[str, Any]]) -> list[Figure]:
    """Plots of entropies (nats), effective experts and the top gate (median, 5 to 95 %) of each modality by layer."""
    experts = max(len(layer["experts"]) for layer in layers)
    even = {"ln E": float(np.log(experts)), "E": float(experts), "1 / E": 1 / experts}
    return [
        Figure(
            _by_depth(layers, key, title=title, unit=unit, reference=(name, even[name])),
            f"{title} of image and text tokens by layer; the dotted line is {name}, uniform routing",
        )
        for key, title, unit, name in _DEPTH
    ]


def _by_depth(
    layers: Sequence[dict[str, Any]], key: str, *, title: str, unit: str, reference: tuple[str, float]
) -> str:
    lines = []
    for name, color in _COLORS.items():
        rows = [(layer["layer"], layer["statistics"][name][key]) for layer in layers if name in layer["statistics"]]
        where = [number for number, _ in rows]
        values = [value for _, value in rows]
        if rows and isinstance(values[0], dict):
            low, middle, high = zip(*(quantiles.values() for quantiles in values), strict=True)
            lines.append(Line(name, where, middle, color, low=low, high=high))
        elif rows:
            lines.append(Line(name, where, values, color))
    top = 1.08 * max([reference[1], *(value for line in lines for value in (*line.y, *line.high))])
    return lines_plot(lines, title=title, x_label="layer", y_label=unit, y_max=top, reference=reference)
