"""Figures of the atlas page: routing by depth; patches and whole images as data URIs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from limoe.reporting.figures import Figure
from limoe.reporting.plots import IMAGE_COLOR, TEXT_COLOR, Line, image_uri, lines_plot
from limoe.types import MODALITIES

_COLORS = dict(zip(MODALITIES, (IMAGE_COLOR, TEXT_COLOR), strict=True))
_DEPTH = (
    ("local_entropy", "Local entropy", "nats", "ln E"),
    ("global_entropy", "Global entropy", "nats", "ln E"),
    ("effective_experts", "Effective experts", "experts", "E"),
    ("top_gate", "Largest gate of a token", "gate", "1 / E"),
)


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
