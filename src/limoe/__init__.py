"""limoe: one sparse transformer for images and texts (LIMoE, arXiv 2206.02770) as a Lightning + Hydra template."""

from importlib import import_module
from typing import Any

from limoe._compat import ensure_torchvision_importable

ensure_torchvision_importable()  # before anything imports timm, torchmetrics or lightning

__version__ = "0.1.0"

_LAZY = {"load": "limoe.checkpoints.pretrained"}  # what users call by `limoe.<name>`, imported when first asked for


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'limoe' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
