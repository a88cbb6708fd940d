"""Transforms of an RGB image to model input, float32 [3, h, w].

Values are in [-1, 1] unless another `normalization` is set. Plain Pillow and numpy: at 64 pixels they are twice as fast
as `torchvision.transforms.v2`, and their randomness comes from the argument `rng`, never from the global generator.
"""

import math
from dataclasses import dataclass
from random import Random

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from limoe.data.images.pixels import Box, Normalization, Normalize, resampling, resized, to_tensor
from limoe.errors import require_argument


@dataclass(kw_only=True)
class EvalTransform:
    """Resize the whole image (as the paper does) or its centre square to a square.

    Args:
        image_size: side of the square, in pixels.
        crop: None resizes the whole image; a number in (0, 1] keeps the centre square of that share of the shorter
            side: 0.875 is the usual "shorter side to 256, centre crop of 224", in one step.
        interpolation: a filter of Pillow: bicubic, bilinear, lanczos, box, hamming or nearest.
        normalization: see `Normalize`.
    """

    image_size: int
    crop: float | None = None
    interpolation: str = "bicubic"
    normalization: Normalization = "unit"

    def __post_init__(self) -> None:
        require_argument(self.image_size > 0, "image_size", "> 0", self.image_size)
        require_argument(self.crop is None or 0 < self.crop <= 1, "crop", "in (0, 1], or null", self.crop)
        self.resample = resampling(self.interpolation)
        self.normalize = Normalize(self.normalization)

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 h w"]:
        box = None
        if self.crop is not None:
            side = self.crop * min(image.size)
            left, top = ((length - side) / 2 for length in image.size)
            box = (left, top, left + side, top + side)
        return self.normalize(to_tensor(resized(image, size=self.image_size, box=box, resample=self.resample)))


@dataclass(kw_only=True)
class TrainTransform:
    """Random resized crop, horizontal flip, and jitter of brightness and contrast.

    Args:
        image_size: side of the square, in pixels.
        min_scale: smallest share of the area that a crop keeps (1: the whole image, as the paper trains).
        flip: probability of a flip.
        jitter: largest relative change of brightness and of contrast.
        interpolation, normalization: as in `EvalTransform`.
    """

    image_size: int
    min_scale: float
    flip: float
    jitter: float
    interpolation: str = "bicubic"
    normalization: Normalization = "unit"

    def __post_init__(self) -> None:
        require_argument(self.image_size > 0, "image_size", "> 0", self.image_size)
        require_argument(0 < self.min_scale <= 1, "min_scale", "in (0, 1]", self.min_scale)
        require_argument(0 <= self.flip <= 1, "flip", "in [0, 1]", self.flip)
        require_argument(0 <= self.jitter < 1, "jitter", "in [0, 1)", self.jitter)
        self.resample = resampling(self.interpolation)
        self.normalize = Normalize(self.normalization)

    def __call__(self, image: Image.Image, rng: Random) -> Float[Tensor, "3 h w"]:
        """Transform an image; all randomness comes from `rng`."""
        box = _random_crop(image.size, min_scale=self.min_scale, rng=rng) if self.min_scale < 1 else None
        pixels = to_tensor(resized(image, size=self.image_size, box=box, resample=self.resample))
        if rng.random() < self.flip:
            pixels = pixels.flip(-1)
        if self.jitter > 0:
            contrast, brightness = (rng.uniform(-self.jitter, self.jitter) for _ in range(2))
            pixels = pixels.mul(1 + contrast).add_(brightness).clamp_(-1, 1)
        return self.normalize(pixels)


def _random_crop(size: tuple[int, int], *, min_scale: float, rng: Random) -> Box:
    """A box with a share of the area in [min_scale, 1] and 3/4 to 4/3 times the aspect ratio of the image."""
    width, height = size
    share = rng.uniform(min_scale, 1)
    aspect = math.exp(rng.uniform(-1, 1) * math.log(4 / 3) / 2)
    w = width * min(1, math.sqrt(share) * aspect)
    h = height * min(1, math.sqrt(share) / aspect)
    left = rng.uniform(0, width - w)
    top = rng.uniform(0, height - h)
    return left, top, left + w, top + h
