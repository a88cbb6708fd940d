"""Pictures of the atlas page: routing by depth, patches, and whole pictures, all as data URIs."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image

from limoe.reporting.figures import Picture
from limoe.reporting.plots import IMAGE_COLOR, INK, STYLE, TEXT_COLOR, drawn
from limoe.reporting.svg import data_uri
from limoe.types import MODALITIES

_COLORS = dict(zip(MODALITIES, (IMAGE_COLOR, TEXT_COLOR), strict=True))
_DEPTH = (
    ("local_entropy", "Local entropy", "nats", "ln E"),
    ("global_entropy", "Global entropy", "nats", "ln E"),
    ("effective_experts", "Effective experts", "experts", "E"),
    ("top_gate", "Largest gate of a token", "gate", "1 / E"),
)


def pixels_uri(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """These very pixels, as lossless WebP."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="WEBP", lossless=True, quality=100, method=6)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def depth_figures(layers: Sequence[dict[str, Any]]) -> list[Picture]:
    """Entropies, effective experts and the largest gate (median, 5 to 95 %) of both modalities against the layer."""
    experts = max(len(layer["experts"]) for layer in layers)
    even = {"ln E": float(np.log(experts)), "E": float(experts), "1 / E": 1 / experts}
    return [
        Picture(
            _by_depth(layers, key, title=title, unit=unit, reference=(name, even[name])),
            f"{title} of image and text tokens by layer; the dotted line is {name}, all experts alike",
        )
        for key, title, unit, name in _DEPTH
    ]


def _by_depth(
    layers: Sequence[dict[str, Any]], key: str, *, title: str, unit: str, reference: tuple[str, float]
) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 2.9), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title)
        for (name, color), aside in zip(_COLORS.items(), (-0.04, 0.04), strict=True):
            rows = [(layer["layer"], layer["statistics"][name][key]) for layer in layers if name in layer["statistics"]]
            where, values = [number + aside for number, _ in rows], [value for _, value in rows]
            if values and isinstance(values[0], dict):
                low, values, high = ([*column] for column in zip(*(v.values() for v in values), strict=True))
                axes.vlines(where, low, high, color=color, alpha=0.35, linewidth=5)
            axes.plot(where, values, color=color, label=name, linewidth=1.5, marker="o", markersize=4)
        axes.axhline(reference[1], linestyle=":", color=INK, linewidth=1.2, label=reference[0])
        axes.set_xlabel("layer")
        axes.set_ylabel(unit)
        axes.set_xticks([layer["layer"] for layer in layers])
        axes.margins(x=0.15)
        axes.set_ylim(0, 1.08 * max(axes.get_ylim()[1], reference[1]))
        figure.legend(loc="outside lower center", ncols=3, handlelength=1.6)
        return data_uri(drawn(figure))
