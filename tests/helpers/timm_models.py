"""The smallest image encoders of timm."""

from typing import Any

import torch

from limoe.models.timm_encoder import TimmEncoder

VIT = {"name": "test_vit", "image_size": 32, "settings": {"img_size": 32}}  # timm's tiniest, made for tests


def encoder(**changes: Any) -> TimmEncoder:
    return TimmEncoder(**{**VIT, **changes})


def random_images(*, pairs: int = 4) -> torch.Tensor:
    return torch.rand(pairs, 3, 32, 32) * 2 - 1
