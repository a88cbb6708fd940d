"""Dependence of a sample's features on its batch, caused by dropped tokens."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limoe.data.tasks.kinds import RetrievalTask, ZeroShotTask
from limoe.evaluation.encode import EvaluationData, encode_texts, evaluating
from limoe.evaluation.zero_shot import prompts_of
from limoe.routing.base import routers_of
from limoe.types import PairDataset


def depends_on_batch(model: nn.Module) -> bool:
    """True if a router of the model lets samples change each other's features in evaluation."""
    return any(router.depends_on_batch for router in routers_of(model))


def batch_gap(
    model: Any, data: EvaluationData, task: ZeroShotTask | RetrievalTask, *, samples: int = 64
) -> dict[str, float]:
    """Cosine distance between features alone and in a batch, over the first `samples` images and texts of a task.

    Keys `image_mean`, `image_max`, `text_mean`, `text_max`; the batch holds all those samples of one modality. A
    distance is between 0 (same direction) and 2. Texts of a zero-shot task are the prompts of its first template.
    """
    with evaluating(model):
        images = _images(model, data, task.images, samples)
        images_alone = torch.cat([model.encode_image(image) for image in images.split(1)])
        texts = _texts(task)[:samples]
        texts_alone = torch.cat([encode_texts(model, data.tokenizer, [text]) for text in texts])
        distance = {
            "image": _distance(model.encode_image(images), images_alone),
            "text": _distance(encode_texts(model, data.tokenizer, texts), texts_alone),
        }
    found: dict[str, float] = {}
    for name, values in distance.items():
        found |= {f"{name}_mean": values.mean().item(), f"{name}_max": values.max().item()}
    return found


def _texts(task: ZeroShotTask | RetrievalTask) -> Sequence[str]:
    if isinstance(task, RetrievalTask):
        return task.texts
    return prompts_of(task.class_names, task.templates[:1])


def _images(model: nn.Module, data: EvaluationData, images: PairDataset, samples: int) -> Float[Tensor, "B 3 h w"]:
    parameter = next(model.parameters())
    rows = (image for batch in data.image_loader(images) for image in batch)
    return torch.stack(list(islice(rows, samples))).to(parameter.device, parameter.dtype)


def _distance(together: Float[Tensor, "B d_out"], alone: Float[Tensor, "B d_out"]) -> Float[Tensor, "B"]:
    return 1 - F.cosine_similarity(together.double(), alone.double())
