"""Make torchvision importable beside a CPU-only torch.

torchvision's default wheel is built against CUDA. Beside a CPU-only torch its C library does not load, and two
operators (`nms`, `qnms`) whose fake kernels it registers without a guard are then unknown: `import torchvision` fails,
and with it timm, torchmetrics and lightning. Declaring the two schemas is enough for everything limoe uses.
`torchvision.ops.nms` and the decoders of `torchvision.io` stay unavailable; limoe decodes with Pillow.
"""

import importlib.util
from pathlib import Path

import torch

_LIBRARIES: list[torch.library.Library] = []  # a collected Library takes its operators with it
_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def ensure_torchvision_importable() -> None:
    """Declare the two schemas where torchvision is installed and its C library does not load."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for library in sorted(Path(spec.origin).parent.glob("_C*.so")):
        try:
            torch.ops.load_library(str(library))
            return
        except OSError:
            continue
    missing = [op for op in ("nms", "qnms") if not torch._C._dispatch_has_kernel(f"torchvision::{op}")]
    if missing:
        fragment = torch.library.Library("torchvision", "FRAGMENT")
        _LIBRARIES.append(fragment)
        for op in missing:
            fragment.define(op + _NMS)
