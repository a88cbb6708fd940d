"""Shared steps of the transforms: resize by Pillow, image to tensor, and normalization."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from limoe.errors import require_argument

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
Normalization = str | Mapping[str, Sequence[float]]

FILTERS = ("bicubic", "bilinear", "lanczos", "box", "hamming", "nearest")
# Mean and standard deviation of red, green and blue in [0, 1].
NORMALIZATIONS: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "unit": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


class Normalize:
    """Normalize pixels in [-1, 1] to (value - mean) / std per channel, with value, mean and std on the scale [0, 1].

    `unit` keeps [-1, 1] (the paper's range, *unverified*); `imagenet` and `clip` are the ranges of pretrained towers;
    any other is given as {mean: [r, g, b], std: [r, g, b]}.
    """

    def __init__(self, normalization: Normalization) -> None:
        mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in _statistics(normalization))
        self.scale = (0.5 / std).float()
        self.shift = ((0.5 - mean) / std).float()
        self.is_identity = bool((self.scale == 1).all() and (self.shift == 0).all())

    def __call__(self, pixels: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
        return pixels if self.is_identity else pixels * self.scale + self.shift


def resampling(name: str) -> Image.Resampling:
    """Pillow's resampling filter of that name."""
    require_argument(name in FILTERS, "interpolation", f"one of {', '.join(FILTERS)}", name)
    return Image.Resampling[name.upper()]


def resized(image: Image.Image, *, size: int, box: Box | None, resample: Image.Resampling) -> Image.Image:
    """Resize the part of the image in `box` (None: all of it) to a square of `size` pixels."""
    if box is None and image.size == (size, size):
        return image
    return image.resize((size, size), resample, box=box, reducing_gap=3.0)


def to_tensor(image: Image.Image) -> Float[Tensor, "3 h w"]:
    """An RGB image as float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    return pixels.permute(2, 0, 1).mul(1 / 127.5).sub_(1).contiguous()


def _statistics(normalization: Normalization) -> tuple[Sequence[float], Sequence[float]]:
    if isinstance(normalization, str):
        names = ", ".join(NORMALIZATIONS)
        rule = f"one of {names}, or a mean and a std"
        require_argument(normalization in NORMALIZATIONS, "normalization", rule, normalization)
        return NORMALIZATIONS[normalization]
    rule = "{mean: [r, g, b], std: [r, g, b]}, std > 0"
    mean = normalization.get("mean", ())
    std = normalization.get("std", ())
    require_argument(len(mean) == len(std) == 3 and min(std) > 0, "normalization", rule, dict(normalization))
    return mean, std
