"""The contract of every model: features of images and of texts in one joint space, and a logit scale."""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from limoe.errors import require_argument
from limoe.models.layers import linear_head
from limoe.types import ModelOutput, RouterOutput


class DualEncoder(nn.Module, ABC):
    """A trunk, a head and unit length for images, and the same for texts.

    Subclasses define `forward`, `image_trunk` and `text_trunk`, and call `add_heads` when their trunks are built. Those
    with transformer blocks or trained weights to start from override `transformer_blocks` and `load_starting_weights`.
    """

    image_head: nn.Module
    text_head: nn.Module

    def add_heads(
        self, *, image_width: int, text_width: int, out_dim: int, init_logit_scale: float, max_logit_scale: float
    ) -> None:
        """Add a linear head per modality, and the logit scale, stored as a logarithm."""
        in_range = 0 < init_logit_scale <= max_logit_scale
        require_argument(in_range, "init_logit_scale", f"in (0, {max_logit_scale}]", init_logit_scale)
        self.image_head = linear_head(image_width, out_dim)
        self.text_head = linear_head(text_width, out_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(init_logit_scale)))
        self.max_logit_scale = max_logit_scale

    @abstractmethod
    def image_trunk(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B D"]:
        """Pooled tokens of images alone, before the head (the input of few-shot and linear probes)."""

    @abstractmethod
    def text_trunk(self, text_ids: Int[Tensor, "B n_t"], text_mask: Bool[Tensor, "B n_t"]) -> Float[Tensor, "B D"]:
        """Pooled tokens of texts alone, before the head."""

    def transformer_blocks(self) -> list[nn.Module]:
        """All blocks of all towers, to be compiled one by one; of a model without any the whole is compiled."""
        return []

    def load_starting_weights(self) -> None:
        """Replace drawn weights by trained ones, where the config of the model asks for them.

        Called once at the start of a training, never to evaluate or to load a checkpoint, which need no such files.
        """

    def encode_image(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B d_out"]:
        """Unit-length features of images alone."""
        pooled = self.image_trunk(images)
        return unit_length(self.image_head(pooled))

    def encode_text(self, text_ids: Int[Tensor, "B n_t"], text_mask: Bool[Tensor, "B n_t"]) -> Float[Tensor, "B d_out"]:
        """Unit-length features of texts alone."""
        pooled = self.text_trunk(text_ids, text_mask)
        return unit_length(self.text_head(pooled))

    def output(
        self, image: Float[Tensor, "B D"], text: Float[Tensor, "B D2"], *, routing: dict[int, RouterOutput]
    ) -> ModelOutput:
        """The output of the model from the pooled tokens of both modalities."""
        return ModelOutput(
            image_features=unit_length(self.image_head(image)),
            text_features=unit_length(self.text_head(text)),
            logit_scale=self.logit_scale.exp(),
            routing=routing,
        )

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep exp(logit_scale) at or below `max_logit_scale`; call after each optimizer step."""
        self.logit_scale.clamp_(max=math.log(self.max_logit_scale))


def unit_length(x: Float[Tensor, "B d_out"]) -> Float[Tensor, "B d_out"]:
    """x / |x| in at least float32: bfloat16 features would be off by up to 0.4 in a logit at logit scale 100."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return F.normalize(x.to(dtype), dim=-1)
