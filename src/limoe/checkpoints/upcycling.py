"""Initialisation from trained weights; dense MLPs become experts (arXiv 2212.05055).

Every expert starts as a copy of the dense MLP; routers keep their random initialisation. With renormalised gates
(`routing.renormalize_gates=true`) and no dropped token the K gates sum to 1: the model starts as the dense one.
With raw gates the output of a sparse layer is the dense one times the sum of the K gates.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from timm.models import load_state_dict as load_timm_file
from torch import Tensor, nn

from limoe.checkpoints.files import check_names, find_checkpoint, listed, load_checkpoint, model_state, read_tensors
from limoe.data.text.text_tokenizer import TextTokenizer
from limoe.errors import DataError, require_argument
from limoe.runs.layout import TOKENIZER

_KEY = "init_from"
_EXPORTED = "model.safetensors"
_MLP = re.compile(r"(.*\.mlp)\.(fc[12]\.(?:weight|bias))")
_EXPERT = {"fc1.weight": "weight_in", "fc1.bias": "bias_in", "fc2.weight": "weight_out", "fc2.bias": "bias_out"}
_BLOCK = re.compile(r".*blocks\.\d+(?=\.)")

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Start:
    """Names of the tensors that were copied, made experts, left at their random initialisation, and not used."""

    copied: list[str]
    experts: list[str]
    fresh: list[str]
    unused: list[str]

    def __str__(self) -> str:
        parts = [f"{len(self.copied)} tensors copied", f"{len(self.experts)} made experts"]
        parts += [f"as drawn: {listed(self.fresh, shown=12)}"] if self.fresh else []
        parts += [f"without a place here: {listed(self.unused, shown=12)}"] if self.unused else []
        return "; ".join(parts)


@dataclass(kw_only=True)
class CheckpointWeights:
    """All weights of another run of limoe; shapes must agree except in experts and routers.

    Args:
        path: run folder, .ckpt file, or exported model.
        weights: of a checkpoint: "saved", "ema" or "raw", see `limoe.checkpoints.files.model_state`.
        expert_noise: see `upcycled`.
    """

    path: str
    weights: str = "saved"
    expert_noise: float = 0.0

    def __post_init__(self) -> None:
        require_argument(self.expert_noise >= 0, "expert_noise", ">= 0", self.expert_noise)

    def __call__(self, model: nn.Module, *, tokenizer: TextTokenizer) -> Start:
        """Change the weights of `model` in place. Raises `DataError` for no such file, or one that does not fit the
        model or its tokenizer.
        """
        source, folder = self._read()
        _check_tokenizer(folder / TOKENIZER, tokenizer)
        target = model.state_dict()
        state = upcycled(source, target=target, noise=self.expert_noise)
        _check_blocks(source, target, place=self.path)
        routers = {name for name in target if ".router." in name and name not in state}
        expected = {name: value for name, value in target.items() if name not in routers}
        check_names(state, expected=expected, place=f"{_KEY}: {self.path}")
        return _load(model, state, source=source, unused=[])

    def _read(self) -> tuple[dict[str, Tensor], Path]:
        """The weights, and the folder with the tokenizer they were trained with."""
        path = Path(self.path)
        if (path / _EXPORTED).is_file():
            return read_tensors(path / _EXPORTED), path
        file = find_checkpoint(path, key=f"{_KEY}.path")
        state = model_state(load_checkpoint(file, key=f"{_KEY}.path"), weights=self.weights)
        return state, file.absolute().parents[1]


@dataclass(kw_only=True)
class TimmViTWeights:
    """The image embedding and the blocks of a plain ViT of timm; other weights keep their random initialisation.

    The position embedding of the class token is left out. timm's blocks have the exact GELU, those of limoe the tanh
    form, so the model does not compute the same function.

    Args:
        name: a model with weights in timm's cache or the hub, such as "vit_base_patch16_224.augreg_in21k".
        path: a local file with the weights instead (.safetensors, .pth, .bin).
        expert_noise: see `upcycled`.
    """

    name: str | None = None
    path: str | None = None
    expert_noise: float = 0.0

    def __post_init__(self) -> None:
        one = (self.name is None) != (self.path is None)
        require_argument(one, "name", "given, or path, and not both", {"name": self.name, "path": self.path})
        require_argument(self.expert_noise >= 0, "expert_noise", ">= 0", self.expert_noise)

    def __call__(self, model: nn.Module, *, tokenizer: TextTokenizer) -> Start:
        """Change the weights of `model` in place; `tokenizer` is not used. Raises `DataError` if the weights cannot be
        read, or do not fit the model.
        """
        place = f"{_KEY}: {self.path or self.name}"
        target = model.state_dict()
        embed, tower = (
            ("image.embed", "image.tower") if "image.tower.norm.weight" in target else ("image_embed", "tower")
        )
        if f"{embed}.pos_embed" not in target or f"{tower}.norm.weight" not in target:
            raise ValueError(f"{type(model).__name__} has no image tower of limoe to fill")
        vit = self._read()
        source, unused = _renamed(vit, embed=embed, tower=tower, positions=len(target[f"{embed}.pos_embed"]))
        state = upcycled(source, target=target, noise=self.expert_noise)
        mine = {n: v for n, v in target.items() if n.startswith((f"{embed}.", f"{tower}.")) and ".router." not in n}
        _check_blocks(source, mine, place=str(self.path or self.name))
        norm = {n for n in mine if n.startswith(f"{tower}.norm.") and n not in state}  # some ViTs have none at the end
        check_names(state, expected={n: v for n, v in mine.items() if n not in norm}, place=place)
        return _load(model, state, source=source, unused=unused)

    def _read(self) -> dict[str, Tensor]:
        if self.path is not None and not Path(self.path).is_file():
            raise DataError(f"{_KEY}.path: {self.path} does not exist; give a file with the weights of a ViT of timm")
        try:
            if self.path is not None:
                return load_timm_file(self.path)
            return timm.create_model(str(self.name), pretrained=True, num_classes=0).state_dict()
        except Exception as error:  # the hub, files and state dicts fail in many ways
            what = f"{_KEY}.path={self.path}" if self.path else f"{_KEY}.name={self.name} (or give {_KEY}.path=FILE)"
            raise DataError(f"{what}: cannot read weights: {type(error).__name__}: {error}") from error


def upcycled(source: State, *, target: State, noise: float = 0.0) -> dict[str, Tensor]:
    """`source` with each dense MLP that is sparse in `target` copied into all experts there.

    `noise`: standard deviation of the Gaussian noise added to each copy of a matrix, as a share of that matrix's own;
    it makes the experts differ from the start.
    """
    state = {}
    for name, value in source.items():
        found = _MLP.fullmatch(name)
        expert = f"{found[1]}.experts.{_EXPERT[found[2]]}" if found else ""
        if name in target or expert not in target:
            state[name] = value
            continue
        is_matrix = value.ndim == 2
        one = value.T if is_matrix else value
        stack = one.expand(len(target[expert]), *one.shape).clone()
        if noise > 0 and is_matrix:
            stack += noise * value.std() * torch.randn_like(stack)
        state[expert] = stack
    return state


def _renamed(vit: State, *, embed: str, tower: str, positions: int) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under this model's names, and timm's names of those not used: class token, classifier, pooling."""
    source, unused = {}, []
    for name, value in vit.items():
        if name == "pos_embed":
            source[f"{embed}.pos_embed"] = value[0, 1:] if value.shape[1] == positions + 1 else value[0]
        elif name.startswith("patch_embed."):
            source[f"{embed}.{name}"] = value
        elif name.startswith(("blocks.", "norm.")):
            source[f"{tower}.{name}"] = value
        else:
            unused.append(name)
    return source, unused


def _load(model: nn.Module, state: State, *, source: State, unused: list[str]) -> Start:
    model.load_state_dict(state, strict=False)
    return Start(
        copied=sorted(state.keys() & source.keys()),
        experts=sorted(state.keys() - source.keys()),
        fresh=sorted(model.state_dict().keys() - state.keys()),
        unused=sorted(unused),
    )


def _check_blocks(source: State, target: State, *, place: str) -> None:
    there, here = (len({found[0] for name in names if (found := _BLOCK.match(name))}) for names in (source, target))
    if there != here:
        raise DataError(f"{_KEY}: {place} has {there} blocks, the model {here}: set model.depth")


def _check_tokenizer(path: Path, tokenizer: TextTokenizer) -> None:
    """Raise `DataError` unless both vocabularies are equal: row i of a token table belongs to token id i."""
    theirs = TextTokenizer.load(path)
    if theirs.tokenizer.get_vocab() != tokenizer.tokenizer.get_vocab():
        raise DataError(
            f"{_KEY}: {path} has another vocabulary than this run's tokenizer; take it over: tokenizer=file "
            f"tokenizer.path={path} tokenizer.vocab_size={theirs.vocab_size}, and model.vocab_size as that run had it"
        )
