"""Contrastive losses over the pairs of all ranks."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limoe.distributed import all_gather, rank


class SoftmaxContrastive:
    """InfoNCE in both directions, half each; negatives are all other pairs of the global batch.

    Each rank scores its own rows against the gathered columns and averages over its rows, so the mean over ranks (DDP's
    mean of gradients) is the loss of one process with the joint batch.
    """

    def __call__(
        self,
        image_features: Float[Tensor, "B d_out"],
        text_features: Float[Tensor, "B d_out"],
        logit_scale: Float[Tensor, ""],
    ) -> Float[Tensor, ""]:
        with torch.autocast(image_features.device.type, enabled=False):
            dtype = torch.promote_types(image_features.dtype, torch.float32)
            image, text = image_features.to(dtype), text_features.to(dtype)
            image_to_text = logit_scale * image @ all_gather(text).T
            text_to_image = logit_scale * text @ all_gather(image).T
            target = torch.arange(len(image), device=image.device) + rank() * len(image)
            return 0.5 * (F.cross_entropy(image_to_text, target) + F.cross_entropy(text_to_image, target))
