"""Features of texts and images, with a model in evaluation mode.

Everything runs in the precision of the parameters (no autocast), so that a task gives the same numbers inside training
and in `limoe eval`. Features are returned on the CPU, so memory of the device is that of one batch.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from limoe.data.pairs import PairSubset
from limoe.errors import DataError, require_argument
from limoe.evaluation.zero_shot import class_embeddings, prompts_sha256
from limoe.models.compilation import uncompiled
from limoe.parallel.collectives import all_gather, rank, world_size
from limoe.types import PairDataset


@runtime_checkable
class EvaluationData(Protocol):
    """Interface of a data module for evaluation. The loader yields image tensors in the order of the dataset.

    `tokenizer.encode` returns ids `[texts, n_t]`, and a mask that is True on real tokens.
    """

    tokenizer: Any

    def image_loader(self, images: PairDataset) -> Iterable[Tensor]: ...


@dataclass
class FeatureExtractor:
    """Features from one state of a model; make a new object when the weights have changed.

    Class features are cached under the sha256 of names and templates. Each rank encodes an equal share of the images or
    texts, and all ranks get all features in the given order. With `alone` this rank encodes everything by itself, for
    work that other ranks do not take part in (not for tasks: their metrics gather). `batch_size` counts texts; the
    batches of images are those of the data module.
    """

    model: Any
    data: EvaluationData
    _: KW_ONLY
    batch_size: int = 256
    alone: bool = False

    def __post_init__(self) -> None:
        require_argument(self.batch_size >= 1, "batch_size", ">= 1 (texts)", self.batch_size)
        self._classes: dict[str, Tensor] = {}

    def share(self, total: int) -> slice:
        """The rows of `total` that this rank encodes: equal shares in the order of ranks, a smaller one on the last."""
        if self.alone:
            return slice(0, total)
        size = math.ceil(total / world_size())
        return slice(rank() * size, min((rank() + 1) * size, total))

    def images(
        self, images: PairDataset, *, before_head: bool = False, gathered: bool = True, progress: str | None = None
    ) -> Float[Tensor, "images d"]:
        """Unit-length features, or with `before_head` the head's inputs; without `gathered` this rank's share only.

        `progress` names a bar, shown only in a terminal and only when the work takes longer than a few seconds.
        Raises `DataError` if the loader drops or adds some.
        """

        parameter = next(self.model.parameters())
        trunk = self.model.image_trunk if before_head else self.model.encode_image

        def encode(mine: Sequence[int]) -> Tensor:
            share = images if len(mine) == len(images) else PairSubset(images, mine)
            found = []
            with tqdm(total=len(mine), desc=progress, leave=False, delay=5, disable=None if progress else True) as bar:
                for batch in self.data.image_loader(share):
                    found.append(trunk(batch.to(parameter.device, parameter.dtype)).float().cpu())
                    bar.update(len(batch))
            features = torch.cat(found)
            if len(features) != len(mine):
                what = f"the loader gave {len(features)} of {len(mine)}"
                raise DataError(f"evaluation images: {what}, check that it neither drops nor shuffles")
            return features

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
        """One unit vector per class, cached per list of names and templates."""
        key = prompts_sha256(class_names, templates)
        if key not in self._classes:
            self._classes[key] = class_embeddings(
                lambda prompts: self.texts(prompts, progress="prompts"), class_names=class_names, templates=templates
            )
        return self._classes[key]

    def _shared(self, total: int, encode: Callable[[Sequence[int]], Tensor], *, gathered: bool = True) -> Tensor:
        """Rows 0 to total - 1. The last share is padded, so that all ranks run equally often, and cut afterwards."""
        own = range(total)[self.share(total)]
        with evaluating(self.model):
            if self.alone or world_size() == 1:
                return encode(own)
            filled = [*own, *[total - 1] * (math.ceil(total / world_size()) - len(own))]
            features = encode(filled)
            if not gathered:
                return features[: len(own)]
            device = next(self.model.parameters()).device  # the process group gathers on this device
            return all_gather(features.to(device))[:total].cpu()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside the block; afterwards the mode of every submodule is restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), uncompiled():
            yield
    finally:
        for module, training in modes:
            module.training = training


def encode_texts(model: Any, tokenizer: Any, texts: Sequence[str]) -> Float[Tensor, "texts d_out"]:
    """Unit-length features of one batch of texts."""
    ids, mask = tokenizer.encode(list(texts))
    device = next(model.parameters()).device
    return model.encode_text(ids.to(device), mask.to(device)).float().cpu()
