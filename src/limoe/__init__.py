"""limoe: one sparse transformer for images and texts (LIMoE, arXiv 2206.02770) as a Lightning + Hydra template."""

from limoe._compat import ensure_torchvision_importable

ensure_torchvision_importable()  # before anything imports timm, torchmetrics or lightning

__version__ = "0.1.0"
