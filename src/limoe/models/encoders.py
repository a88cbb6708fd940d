"""Encoders of one modality: the contract, and those with an embedding, a tower of limoe and the mean token."""

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from limoe.models.layers import ImageEmbed, TextEmbed
from limoe.models.tower import Tower
from limoe.types import IMAGE, TEXT, RouterOutput


class Encoder(nn.Module):
    """One side of `TwoTower`.

    `forward` gives features [B, width], and what each router decided, by layer: `dict[int, RouterOutput]`, empty
    without sparse layers. The image encoder receives images, the text encoder token ids and their mask.

    Attributes:
        width: numbers in a feature.
        depth: how many layer numbers the encoder takes; 0 where no layer routes.
    """

    width: int
    depth: int

    def transformer_blocks(self) -> list[nn.Module]:
        """Blocks to be compiled one by one."""
        return []

    def load_starting_weights(self) -> None:
        """See `DualEncoder.load_starting_weights`."""


class TowerEncoder(Encoder):
    """An embedding of limoe, then a `Tower`: FLOPs and memory of both follow from formulas."""

    embed: ImageEmbed | TextEmbed
    tower: Tower

    def transformer_blocks(self) -> list[nn.Module]:
        return list(self.tower.blocks)


class ImageEncoder(TowerEncoder):
    """Images to mean tokens [B, D]; sparse layers route image tokens alone. Arguments as of `LIMoE`."""

    def __init__(self, *, image_size: int, patch_size: int, width: int, **tower: Any) -> None:
        super().__init__()
        self.embed = ImageEmbed(width, image_size=image_size, patch_size=patch_size)
        self.tower = Tower(width, **tower)
        self.width = width
        self.depth = len(self.tower.blocks)

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> tuple[Float[Tensor, "B D"], dict[int, RouterOutput]]:
        return self.tower.pooled(self.embed(images), IMAGE)


class TextEncoder(TowerEncoder):
    """Texts to mean tokens [B, D]; sparse layers route text tokens alone. Arguments as of `LIMoE`."""

    def __init__(self, *, vocab_size: int, text_length: int, width: int, **tower: Any) -> None:
        super().__init__()
        self.embed = TextEmbed(width, vocab_size=vocab_size, length=text_length)
        self.tower = Tower(width, **tower)
        self.width = width
        self.depth = len(self.tower.blocks)

    def forward(
        self, text_ids: Int[Tensor, "B n_t"], text_mask: Bool[Tensor, "B n_t"]
    ) -> tuple[Float[Tensor, "B D"], dict[int, RouterOutput]]:
        return self.tower.pooled(self.embed(text_ids), TEXT, text_mask)
