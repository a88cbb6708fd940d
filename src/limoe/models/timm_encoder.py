"""Any model of timm as the image encoder, trained along or locked (LiT, arXiv 2111.07991)."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from limoe.errors import ArgumentError, require_argument
from limoe.models.encoders import Encoder
from limoe.types import RouterOutput


class TimmEncoder(Encoder):
    """Images to pooled features [B, D] of `timm.create_model(name, num_classes=0)`.

    Images come in [-1, 1], as limoe's transforms make them; here they are brought to the mean and standard deviation
    of the model's own `pretrained_cfg`. The classifier of the weights is left out.

    Built with random weights. `load_starting_weights` brings in those to start from; whoever trains calls it, so that
    checkpoints and exports need no file and no network.

    Args:
        image_size: side of the square input, pixels.
        name: a model of timm, such as "vit_base_patch16_224.augreg_in21k".
        pretrained: start from trained weights: `weights` if given, else from where timm finds them (its cache or the
            hub).
        weights: a local file with them (.safetensors, .pth, .bin).
        pool: timm's `global_pool`: "avg", "token", "map", ...; None = the model's own.
        locked: no gradient, and in evaluation mode whatever happens around it.
        settings: further arguments of `timm.create_model`, such as `img_size` for a transformer.

    Raises:
        ArgumentError: no such model, argument or file.
    """

    depth = 0  # no layer that routes
    scale: Float[Tensor, "3 1 1"]
    shift: Float[Tensor, "3 1 1"]

    def __init__(
        self,
        *,
        image_size: int,
        name: str,
        pretrained: bool = False,
        weights: str | None = None,
        pool: str | None = None,
        locked: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        is_used = weights is None or pretrained
        require_argument(is_used, "pretrained", "true where weights is given", pretrained)
        known = timm.is_model(name)
        require_argument(known, "name", f"a model of timm {timm.__version__}, see timm.list_models()", name)
        self.image_size = image_size
        self.name = name
        self.locked = locked
        self.pretrained = pretrained
        self.weights = weights
        self._arguments = dict(settings or {})
        if pool is not None:
            self._arguments["global_pool"] = pool
        self.backbone = self._build()
        self.width: int = self.backbone.num_features
        # [3, 1, 1] from [-1, 1] to the mean and deviation of the model's own training
        mean = torch.tensor(self.backbone.pretrained_cfg["mean"])[:, None, None]
        std = torch.tensor(self.backbone.pretrained_cfg["std"])[:, None, None]
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)
        self.train()

    def transformer_blocks(self) -> list[nn.Module]:
        """What stands in lists named `blocks`, as timm calls them in all its transformers."""
        found: list[nn.Module] = []
        for name, module in self.backbone.named_modules():
            if name.rpartition(".")[2] == "blocks":
                found += module.children()
        return found

    def load_starting_weights(self) -> None:
        """Replace the random weights by `weights` or by timm's own; nothing happens with `pretrained=False`. Raises
        `ArgumentError` if there is no such file, the hub cannot be reached, or the weights do not fit.
        """
        if not self.pretrained:
            return
        is_file = self.weights is None or Path(self.weights).is_file()
        require_argument(is_file, "weights", "a file", self.weights)
        overlay = {} if self.weights is None else {"pretrained_cfg_overlay": {"file": self.weights}}
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its failures are told once, below
        try:
            self.backbone.load_state_dict(self._create(pretrained=True, **overlay).state_dict())
        except Exception as error:  # the hub, files and state dicts fail in many ways
            source = self.weights or "the hub (or give a local file)"
            message = f"weights: none for {self.name} from {source}: {_line(error)}"
            raise ArgumentError(message, argument="weights") from error

    def train(self, mode: bool = True) -> "TimmEncoder":
        super().train(mode)
        if self.locked:
            self.backbone.eval()
        return self

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> tuple[Float[Tensor, "B D"], dict[int, RouterOutput]]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked):
            return self.backbone(images * self.scale + self.shift), {}

    def _build(self) -> Any:
        try:
            backbone = self._create(pretrained=False)
        except Exception as error:  # every architecture refuses in its own way
            settings = ", ".join(f"{key}={value}" for key, value in self._arguments.items()) or "no settings"
            message = f"name: timm cannot build {self.name} with {settings}: {_line(error)}"
            raise ArgumentError(message, argument="name") from error
        return backbone.requires_grad_(not self.locked)

    def _create(self, **how: Any) -> Any:
        return timm.create_model(self.name, num_classes=0, **how, **self._arguments)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
