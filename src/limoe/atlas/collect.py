"""One forward pass of pairs through a trained model: inputs and routing."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from limoe.data.datamodule import PairDataModule
from limoe.data.loading import BatchCollate, EvalExamples
from limoe.data.pairs import PairSubset
from limoe.evaluation.encode import evaluating
from limoe.models.moe import MoE
from limoe.routing.base import Router
from limoe.training.micro_batches import merge_outputs
from limoe.types import MODALITIES, Batch, PairDataset, RouterOutput


@dataclass(frozen=True)
class SparseLayer:
    """A sparse layer and its number in `ModelOutput.routing` and in the names of logged metrics."""

    number: int
    moe: MoE
    modalities: tuple[int, ...]

    @property
    def router(self) -> Router:
        return self.moe.router

    @property
    def name(self) -> str:
        """`layer 3`, of a tower of one modality `layer 3 (text tower)`."""
        tower = f" ({MODALITIES[self.modalities[0]]} tower)" if len(self.modalities) == 1 else ""
        return f"layer {self.number}{tower}"


@dataclass(frozen=True)
class Tokens:
    """Routing of one modality in one layer, by sequence. `kept` is False on padding too."""

    expert_index: Int[Tensor, "B n K"]
    gate: Float[Tensor, "B n K"]
    kept: Bool[Tensor, "B n K"]
    valid: Bool[Tensor, "B n"]

    @classmethod
    def of(cls, routed: RouterOutput, modality: int, *, sequences: int) -> "Tokens":
        """Select the tokens of `modality` from merged outputs, which list them in the order of the pairs."""
        mine = routed.modality == modality
        index, gate, kept, valid = (
            values[mine].unflatten(0, (sequences, -1))
            for values in (routed.expert_index, routed.gate, routed.kept, routed.valid)
        )
        return cls(index, gate, kept & valid[..., None], valid)

    def at(self, expert: int) -> Bool[Tensor, "B n"]:
        """Mask of the tokens that this expert computes."""
        return ((self.expert_index == expert) & self.kept).any(-1)

    def gate_of(self, expert: int) -> Float[Tensor, "B n"]:
        """The weight of this expert for each token, 0 where it does not compute it."""
        return (self.gate * ((self.expert_index == expert) & self.kept)).sum(-1)


def as_pixels(
    images: Float[Tensor, "B 3 h w"], transform: Callable[[Image.Image], Tensor], *, side: int = 32
) -> UInt8[Tensor, "B h w 3"]:
    """Convert model input back to bytes, scaled by the transform's output for a black and a white image."""
    black, white = (
        transform(Image.new("RGB", (side, side), colour)).mean((1, 2), keepdim=True) for colour in ("black", "white")
    )
    unit = (images - black) / (white - black)
    return unit.mul(255).round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def choose(pairs: PairDataset, *, count: int, seed: int) -> PairSubset:
    """Draw `count` pairs (all if there are fewer), in random order."""
    return PairSubset(pairs, Random(seed).sample(range(len(pairs)), min(count, len(pairs))))


def load(data: PairDataModule, pairs: PairDataset, *, batch_size: int) -> list[Batch]:
    """Load first captions and plain images, as in validation; unreadable pairs are replaced by `bad_samples`."""
    assert data.tokenizer is not None
    examples = EvalExamples(pairs, transform=data.eval_transform, stand_ins=data.bad_samples.stand_ins)
    loader: Iterable[Batch] = DataLoader(
        examples, batch_size=batch_size, num_workers=data.num_workers, collate_fn=BatchCollate(data.tokenizer)
    )
    return list(tqdm(loader, desc="reading pairs", unit="batch", leave=False, disable=None))


def route(model: Any, batches: Sequence[Batch], *, name: str = "routing") -> dict[int, RouterOutput]:
    """Routing of all pairs by layer, on the CPU; in evaluation mode, so without noise."""
    parameter = next(model.parameters())
    outputs = []
    with evaluating(model):
        for batch in tqdm(batches, desc=name, unit="batch", leave=False, disable=None):
            images = batch.images.to(parameter.device, parameter.dtype)
            outputs.append(model(images, batch.text_ids.to(parameter.device), batch.text_mask.to(parameter.device)))
            for layer, routed in outputs[-1].routing.items():
                tensors: Any = {name: value.cpu() for name, value in vars(routed).items() if isinstance(value, Tensor)}
                outputs[-1].routing[layer] = dataclasses.replace(routed, **tensors)
    return merge_outputs(outputs).routing


def in_rows(values: Sequence[Any]) -> list[list[Any]]:
    """Values of the n patches of a square image as the rows of its sqrt(n) x sqrt(n) grid."""
    side = math.isqrt(len(values))
    return [list(values[i : i + side]) for i in range(0, len(values), side)]


def sparse_layers(model: nn.Module, routing: dict[int, RouterOutput]) -> list[SparseLayer]:
    """Sparse layers of the model, by number."""
    layers = [module for module in model.modules() if isinstance(module, MoE)]
    return [
        SparseLayer(number, moe, routing[number].modalities)
        for number, moe in zip(sorted(routing), layers, strict=True)
    ]
