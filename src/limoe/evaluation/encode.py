"""From texts and images to features, with a model in evaluation mode.

Everything runs in the precision of the parameters (no autocast), so that a task gives the same numbers inside training
and in `limoe eval`. Features come back on the CPU: memory of the device stays bounded by one batch.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from limoe.errors import DataError, require_argument
from limoe.evaluation.zero_shot import class_embeddings, prompts_sha256
from limoe.models.compilation import uncompiled
from limoe.parallel.collectives import all_gather, rank, world_size
from limoe.types import Pair, PairDataset


@runtime_checkable
class EvaluationData(Protocol):
    """What evaluation needs of a datamodule. The loader yields image tensors in the order of the dataset.

    `tokenizer.encode` makes ids `[texts, n_t]` of texts, and a mask that is True on real tokens.
    """

    tokenizer: Any

    def image_loader(self, images: PairDataset) -> Iterable[Tensor]: ...


class FeatureExtractor:
    """Features from one state of a model; make a new one when the model has learned.

    Class features are kept, under the sha256 of names and templates, for as long as the encoder lives. With several
    ranks each encodes an equal share of the images or texts, and all get all features in the order asked for, each
    once. `alone` makes this rank do it all by itself, for work that the other ranks don't take part in (no task: its
    metric gathers). `batch_size` counts texts; the batches of images are those of the datamodule.
    """

    def __init__(self, model: Any, data: EvaluationData, *, batch_size: int = 256, alone: bool = False) -> None:
        require_argument(batch_size >= 1, "batch_size", ">= 1 (texts)", batch_size)
        self.model = model
        self.data = data
        self.batch_size = batch_size
        self.alone = alone
        self._classes: dict[str, Tensor] = {}

    def share(self, total: int) -> slice:
        """The rows of `total` that this rank encodes: as many on each, in the order of ranks, fewer on the last."""
        if self.alone:
            return slice(0, total)
        size = math.ceil(total / world_size())
        return slice(rank() * size, min((rank() + 1) * size, total))

    def images(
        self, images: PairDataset, *, before_head: bool = False, gathered: bool = True, progress: str | None = None
    ) -> Float[Tensor, "images d"]:
        """`before_head`: what the image head sees, instead of features of unit length. Not `gathered`: this share."""

        def encode(mine: Sequence[int]) -> Tensor:
            share = images if len(mine) == len(images) else Picked(images, mine)
            return encode_images(self.model, self.data, share, before_head=before_head, progress=progress)

        return self._shared(len(images), encode, gathered=gathered)

    def texts(self, texts: Sequence[str], *, progress: str | None = None) -> Float[Tensor, "texts d_out"]:
        """Unit-length features, in batches of `batch_size`."""

        def encode(mine: Sequence[int]) -> Tensor:
            starts = range(0, len(mine), self.batch_size)
            bar = tqdm(starts, desc=progress, unit="batch", leave=False, delay=5, disable=None if progress else True)
            parts = ([texts[i] for i in mine[start : start + self.batch_size]] for start in bar)
            return torch.cat([encode_texts(self.model, self.data.tokenizer, part) for part in parts])

        return self._shared(len(texts), encode)

    def classes(self, class_names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "classes d_out"]:
        """One unit vector per class; computed once per list of names and templates."""
        key = prompts_sha256(class_names, templates)
        if key not in self._classes:
            self._classes[key] = class_embeddings(
                lambda prompts: self.texts(prompts, progress="prompts"), class_names=class_names, templates=templates
            )
        return self._classes[key]

    def _shared(self, total: int, encode: Callable[[Sequence[int]], Tensor], *, gathered: bool = True) -> Tensor:
        """Rows 0 to total - 1. Shares are equal, so every rank runs as often; what fills up the last one is cut off."""
        own = range(total)[self.share(total)]
        with evaluating(self.model):
            if self.alone or world_size() == 1:
                return encode(own)
            filled = [*own, *[total - 1] * (math.ceil(total / world_size()) - len(own))]
            features = encode(filled)
            if not gathered:
                return features[: len(own)]
            device = next(self.model.parameters()).device  # where the process group can gather
            return all_gather(features.to(device))[:total].cpu()


@dataclass(frozen=True)
class Picked:
    """Some images of a dataset, in any order, as a dataset."""

    images: PairDataset
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Pair:
        return self.images[self.indices[index]]

    def captions(self) -> Iterator[str]:
        return iter(())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every submodule has the mode it had before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), uncompiled():
            yield
    finally:
        for module, training in modes:
            module.training = training


def encode_texts(model: Any, tokenizer: Any, texts: Sequence[str]) -> Float[Tensor, "texts d_out"]:
    """One batch of texts."""
    ids, mask = tokenizer.encode(list(texts))
    device = next(model.parameters()).device
    return model.encode_text(ids.to(device), mask.to(device)).float().cpu()


def encode_images(
    model: Any, data: EvaluationData, images: PairDataset, *, before_head: bool = False, progress: str | None = None
) -> Float[Tensor, "images d"]:
    """Features of all images, in order. Raises `DataError` if the loader drops or adds some.

    `progress` names a bar, shown only in a terminal and only when the work takes longer than a few seconds.
    """
    parameter = next(model.parameters())
    encode = model.image_trunk if before_head else model.encode_image
    total = len(images)
    found = []
    with tqdm(total=total, desc=progress, leave=False, delay=5, disable=None if progress else True) as bar:
        for batch in data.image_loader(images):
            found.append(encode(batch.to(parameter.device, parameter.dtype)).float().cpu())
            bar.update(len(batch))
    features = torch.cat(found)
    if len(features) != total:
        raise DataError(
            f"evaluation images: the loader gave {len(features)} of {total}, check that it neither drops nor shuffles"
        )
    return features
