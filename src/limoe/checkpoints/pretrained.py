"""An exported model, ready to encode images and texts: `limoe.load`. Needs neither Lightning nor Hydra.

An export is a folder with `model.safetensors` (weights, under the network's names), `tokenizer.json`, `config.json`
(targets and arguments of network and preprocessing, sha256 of both files) and a model card. No file is executed. A file
with another sha256 is refused, since a flipped bit in the weights would load without an error.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from PIL.Image import Image
from torch import Tensor, nn

from limoe.checkpoints.files import check_names, listed, read_tensors
from limoe.checkpoints.rebuild import rebuild
from limoe.data.images.decoding import to_rgb
from limoe.data.text.text_tokenizer import TextTokenizer
from limoe.errors import DataError
from limoe.files import sha256
from limoe.runs.layout import TOKENIZER

FORMAT, FORMAT_VERSION = "limoe", 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_KEYS = {"format", "format_version", "limoe_version", "model", "preprocess", "logit_bias", "sha256", "source"}


class ImageTextEncoder(nn.Module):
    """Encoder of images and texts to unit vectors of one space; in evaluation mode, parameters without gradient.

    Attributes:
        model: the network (`encode_image`, `encode_text` on tensors).
        tokenizer: texts to (ids, mask).
        config: the content of config.json.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        transform: Callable[[Image], Tensor],
        tokenizer: TextTokenizer,
        config: dict[str, Any],
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.tokenizer = tokenizer
        self.config = config
        self._transform = transform
        self.eval().requires_grad_(False)

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """Factor on the cosines before a softmax or, with `logit_bias` added, a sigmoid."""
        return self.model.logit_scale.exp()

    @property
    def logit_bias(self) -> float | None:
        """Bias of the logits of a model trained with the sigmoid loss; None for the softmax loss."""
        return self.config["logit_bias"]

    def preprocess(self, image: Image) -> Float[Tensor, "3 h w"]:
        """Input of the network from an image of any size and mode (transparency on white)."""
        return self._transform(to_rgb(image))

    def encode_image(self, images: Image | Sequence[Image] | Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B d_out"]:
        """Features of images, or of a batch of outputs of `preprocess`."""
        if not isinstance(images, Tensor):
            given = [images] if isinstance(images, Image) else images
            images = torch.stack([self.preprocess(image) for image in given])
        parameter = next(self.model.parameters())
        return self.model.encode_image(images.to(parameter.device, parameter.dtype))

    def encode_text(
        self, texts: str | Sequence[str] | Int[Tensor, "B n_t"], mask: Bool[Tensor, "B n_t"] | None = None
    ) -> Float[Tensor, "B d_out"]:
        """Features of texts, or of token ids with their mask (True on real tokens; None: all are)."""
        if isinstance(texts, Tensor):
            ids, mask = texts, torch.ones_like(texts, dtype=torch.bool) if mask is None else mask
        else:
            ids, mask = self.tokenizer.encode([texts] if isinstance(texts, str) else list(texts))
        device = next(self.model.parameters()).device
        return self.model.encode_text(ids.to(device), mask.to(device))


def load(path: str | Path, *, device: str | torch.device = "cpu") -> ImageTextEncoder:
    """Load the model in an export folder, bit for bit as it was exported. Raises `DataError` if a file is missing or
    not the one that was exported, or this version of limoe cannot build it.
    """
    folder = Path(path)
    config = read_config(folder)
    for name, expected in config["sha256"].items():
        file = folder / name
        if not file.is_file():
            raise DataError(f"{file} is missing; export the model again")
        if sha256(file) != expected:
            raise DataError(f"{file}: sha256 mismatch: it is not the file that was exported (damaged or replaced)")
    state = read_tensors(folder / WEIGHTS)
    place = str(folder / CONFIG)
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: keep the caller's random state
        model = rebuild(self_contained(config["model"]), key=f"{place}: model")
    if not isinstance(model, nn.Module):
        raise DataError(f"{place}: model: {config['model']!r} is no network; export the model again")
    check_names(state, expected=model.state_dict(), place=str(folder / WEIGHTS))
    model.load_state_dict(state)
    encoder = ImageTextEncoder(
        model,
        transform=rebuild(config["preprocess"], key=f"{place}: preprocess"),
        tokenizer=TextTokenizer.load(folder / TOKENIZER),
        config=config,
    )
    return encoder.to(device)


def self_contained(tree: Any) -> Any:
    """The tree of a network without the initial weights of its encoders: they are not needed, their paths are private,
    and a tree from an unknown source must not fetch any."""
    if isinstance(tree, list):
        return [self_contained(value) for value in tree]
    if not isinstance(tree, dict):
        return tree
    fetched = {"pretrained": False, "weights": None}
    return {key: fetched[key] if key in fetched else self_contained(value) for key, value in tree.items()}


def read_config(folder: Path) -> dict[str, Any]:
    """The checked content of config.json. Raises `DataError` if it is missing, broken, of a newer format, or has other
    keys.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise DataError(f"{folder} is no exported model: it has no {CONFIG}; `limoe export RUN out=FOLDER` writes one")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}; export the model again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise DataError(f"{path} does not describe a model exported by limoe; give the folder of `limoe export`")
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        by = config.get("limoe_version")
        raise DataError(f"{path} has format {version!r} (limoe {by}), this limoe reads {FORMAT_VERSION}: update limoe")
    if missing := _KEYS - config.keys():
        raise DataError(f"{path} lacks the keys {listed(missing)}; export the model again")
    if unknown := config.keys() - _KEYS:
        raise DataError(f"{path} has unknown keys: {listed(unknown)}; export the model again")
    if not isinstance(config["sha256"], dict) or config["sha256"].keys() != {WEIGHTS, TOKENIZER}:
        raise DataError(f"{path}: sha256 must name {WEIGHTS} and {TOKENIZER}; export the model again")
    return config
