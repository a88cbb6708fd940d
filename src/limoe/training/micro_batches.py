"""A large batch through the model in parts, with the loss of the whole: every pair stays a negative of every other.

The cached-gradient method (GradCache, arXiv 2101.06983) by recomputation: each part is encoded without keeping its
activations, the losses see the features and routers of all parts, and one backward computes part after part again.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from limoe.nn import recomputed
from limoe.types import Batch, ModelOutput

_PER_TOKEN = ("logits", "noisy_logits", "gates", "expert_index", "gate", "kept", "modality", "valid")


def encode(model: nn.Module, batch: Batch, *, micro_batch_size: int | None = None) -> ModelOutput:
    """`model(images, text_ids, text_mask)`, in parts of `micro_batch_size` pairs; None = at once.

    Merged routers list the tokens part by part. Equal to the whole batch where routing groups fit into
    a part without a rest and routers draw no noise (with noise: other draws of the same distribution).
    """
    inputs = (batch.images, batch.text_ids, batch.text_mask)
    if micro_batch_size is None or micro_batch_size >= len(batch.images):
        return model(*inputs)
    outputs = []
    for part in zip(*(x.split(micro_batch_size) for x in inputs), strict=True):
        outputs.append(recomputed(model, *part))
        # otherwise parts would share weights cast to bfloat16, and add up their gradients in that type
        torch.clear_autocast_cache()
    return merge_outputs(outputs)


def merge_outputs(parts: Sequence[ModelOutput]) -> ModelOutput:
    """One output for all pairs, in order."""
    routing = {}
    for layer, first in parts[0].routing.items():
        routers = [part.routing[layer] for part in parts]
        tensors: Any = {name: torch.cat([getattr(router, name) for router in routers]) for name in _PER_TOKEN}
        routing[layer] = dataclasses.replace(first, **tensors)
    return ModelOutput(
        image_features=torch.cat([part.image_features for part in parts]),
        text_features=torch.cat([part.text_features for part in parts]),
        logit_scale=parts[0].logit_scale,
        routing=routing,
    )
