"""Two towers, one per modality: CLIP (2103.00020), ALIGN (2102.05918), LiT (2111.07991), and sparse ones."""

from collections.abc import Callable

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from limoe.errors import arguments_of_part, require_argument
from limoe.models.dual_encoder import DualEncoder
from limoe.models.encoders import Encoder
from limoe.types import ModelOutput


class TwoTower(DualEncoder):
    """An encoder per modality, which meet in the loss alone; each sparse layer routes tokens of one modality.

    Layers are numbered through: those of the text encoder come after those of the image encoder.

    Args:
        image: factory of the image encoder, `image(image_size=image_size)`; see `ImageEncoder` and `TimmEncoder`.
        text: factory of the text encoder, `text(vocab_size=..., text_length=...)`; see `TextEncoder`.
        out_dim: width of the joint space; None = that of the image encoder.
        image_head: "linear", or "none": the joint space is the image encoder's own, only the text has a head (so does
            big_vision for LiT).
        image_size, vocab_size, text_length, init_logit_scale, max_logit_scale: as of `LIMoE`.
    """

    image: Encoder
    text: Encoder

    def __init__(
        self,
        *,
        image: Callable[..., Encoder],
        text: Callable[..., Encoder],
        image_size: int,
        vocab_size: int,
        text_length: int,
        out_dim: int | None = None,
        image_head: str = "linear",
        init_logit_scale: float = 10.0,
        max_logit_scale: float = 100.0,
    ) -> None:
        super().__init__()
        require_argument(image_head in ("linear", "none"), "image_head", "'linear' or 'none'", image_head)
        self.image = image(image_size=image_size)
        self.text = text(vocab_size=vocab_size, text_length=text_length)
        for name, encoder in (("image", self.image), ("text", self.text)):
            is_encoder = isinstance(encoder, Encoder)
            require_argument(is_encoder, name, "a factory of limoe.models.encoders.Encoder", type(encoder).__name__)
        joint_width = self.image.width if out_dim is None else out_dim
        fits = image_head == "linear" or joint_width == self.image.width
        require_argument(fits, "out_dim", f"null or {self.image.width} where image_head is none", out_dim)
        self.add_heads(
            image_width=self.image.width,
            text_width=self.text.width,
            out_dim=joint_width,
            init_logit_scale=init_logit_scale,
            max_logit_scale=max_logit_scale,
        )
        if image_head == "none":
            self.image_head = nn.Identity()

    def forward(
        self,
        images: Float[Tensor, "B 3 h w"],
        text_ids: Int[Tensor, "B n_t"],
        text_mask: Bool[Tensor, "B n_t"],
    ) -> ModelOutput:
        image, image_routing = self.image(images)
        text, text_routing = self.text(text_ids, text_mask)
        numbered = {self.image.depth + layer: routed for layer, routed in text_routing.items()}
        return self.output(image, text, routing=image_routing | numbered)

    def transformer_blocks(self) -> list[nn.Module]:
        return self.image.transformer_blocks() + self.text.transformer_blocks()

    def load_starting_weights(self) -> None:
        with arguments_of_part("image"):
            self.image.load_starting_weights()
        with arguments_of_part("text"):
            self.text.load_starting_weights()

    def image_trunk(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B D"]:
        features, _ = self.image(images)
        return features

    def text_trunk(self, text_ids: Int[Tensor, "B n_t"], text_mask: Bool[Tensor, "B n_t"]) -> Float[Tensor, "B D"]:
        features, _ = self.text(text_ids, text_mask)
        return features
