"""From texts and pictures to features, with a model in evaluation mode.

Everything runs in the precision of the parameters (no autocast), so that a task gives the same numbers inside training
and in `limoe eval`. Features come back on the CPU: memory of the device stays bounded by one batch.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from limoe.errors import DataError
from limoe.types import PairDataset


@runtime_checkable
class Tokenizer(Protocol):
    """Texts to ids `[texts, n_t]` and a mask that is True on real tokens."""

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class EvaluationData(Protocol):
    """What evaluation needs of a datamodule. The loader yields image tensors in the order of the dataset."""

    tokenizer: Any

    def picture_loader(self, pictures: PairDataset) -> Iterable[Tensor]: ...


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every submodule has the mode it had before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def encode_texts(model: Any, tokenizer: Tokenizer, texts: Sequence[str]) -> Float[Tensor, "texts d_out"]:
    """One batch of texts."""
    ids, mask = tokenizer.encode(list(texts))
    device = next(model.parameters()).device
    return model.encode_text(ids.to(device), mask.to(device)).float().cpu()


def encode_pictures(
    model: Any, data: EvaluationData, pictures: PairDataset, *, progress: str | None = None
) -> Iterator[Float[Tensor, "B d_out"]]:
    """Features of all pictures, batch by batch and in order. Raises `DataError` if the loader drops or adds some.

    `progress` names a bar, shown only in a terminal and only when the work takes longer than a few seconds.
    """
    parameter = next(model.parameters())
    total = len(pictures)
    seen = 0
    with tqdm(total=total, desc=progress, leave=False, delay=5, disable=None if progress else True) as bar:
        for images in data.picture_loader(pictures):
            features = model.encode_image(images.to(parameter.device, parameter.dtype)).float().cpu()
            seen += len(features)
            bar.update(len(features))
            yield features
    if seen != total:
        raise DataError(
            f"evaluation pictures: the loader gave {seen} of {total}, check that it neither drops nor shuffles"
        )
