"""Training transforms of other libraries (torchvision v2, timm), made reproducible.

Such parts draw from the global generators of Python, numpy and torch. These are seeded for each image from the
argument `rng` and restored afterwards, so the result is a function of (seed, epoch, index) for any number of workers,
and the random state of the training process is unchanged.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from limoe.data.images.pixels import Normalization, Normalize, to_tensor
from limoe.errors import LimoeError, require_argument


@dataclass(kw_only=True)
class LibraryTransform:
    """Apply `steps` in order to an RGB image.

    Args:
        steps: by name; the first gets a Pillow image. If the last returns an image or a tensor of bytes, it is
            normalized here; a float tensor is returned as it is, so such steps must normalize by themselves.
        image_size: required height and width of the result, in pixels.
        normalization: see `Normalize`.
    """

    steps: dict[str, Callable[[Any], Any]]
    image_size: int
    normalization: Normalization = "unit"

    def __post_init__(self) -> None:
        require_argument(self.image_size > 0, "image_size", "> 0", self.image_size)
        self.normalize = Normalize(self.normalization)

    def __call__(self, image: Image.Image, rng: random.Random) -> Float[Tensor, "3 h w"]:
        """Transform an image; all randomness comes from `rng`. Raises `LimoeError` for a result of another shape."""
        result: Any = image
        with seeded(rng.getrandbits(63)):
            for step in self.steps.values():
                result = step(result)
        if isinstance(result, Image.Image):
            pixels = self.normalize(to_tensor(result.convert("RGB")))
        elif isinstance(result, Tensor):
            pixels = result.as_subclass(Tensor)  # torchvision's Image is a kind of tensor
            if pixels.dtype == torch.uint8:
                pixels = self.normalize(pixels.float().mul(1 / 127.5).sub_(1))
        else:
            kind = type(result).__name__
            raise LimoeError(f"the steps of the training transform must give an image or a tensor, got {kind}")
        expected = (3, self.image_size, self.image_size)
        if pixels.shape != expected:
            raise LimoeError(f"the steps of the training transform must give {expected}, got {tuple(pixels.shape)}")
        return pixels


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, numpy and torch (CPU) inside the block, and restore them afterwards."""
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])
