"""Token choice that treats the modalities apart: a router for each, or experts of their own."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limoe.errors import require_argument
from limoe.nn import lecun_normal_
from limoe.routing.base import float32_linear
from limoe.routing.token_choice import TopKRouter
from limoe.types import IMAGE, MODALITIES, PackedTokens


class PerModalityRouter(TopKRouter):
    """Top K with a linear map of its own for each modality; experts and slots stay common (an ablation; *unverified*).

    Both maps are applied to all tokens and one result is taken: E more columns cost less than sorting the tokens, and
    no shape depends on the data. Arguments: see `TopKRouter`.
    """

    def new_weight(self, dim: int) -> nn.Parameter:
        weight = torch.empty(len(MODALITIES), self.num_experts, dim)
        for of_modality in weight:
            lecun_normal_(of_modality)
        return nn.Parameter(weight)

    def logits(self, x: Float[Tensor, "T D"], tokens: PackedTokens) -> Float[Tensor, "T E"]:
        # [T, 2 * E] the logits of both maps, then [T, E] those of the token's modality
        both = float32_linear(x, self.weight.flatten(0, 1))
        by_image, by_text = both.chunk(len(MODALITIES), dim=-1)
        is_image = tokens.modality == IMAGE
        return torch.where(is_image[:, None], by_image, by_text)


class ModalityExpertsRouter(TopKRouter):
    """Top K among the experts of the token's modality, in the order image experts, text experts, shared experts.

    With `sizes` that sum to E the modalities never meet (MoMa, arXiv 2407.21770, has 4 + 4 experts; its experts choose
    the tokens, though). What `sizes` leaves over is open to both. Balance losses over all tokens then have a floor
    above 0 unless the sizes fit the shares of tokens.

    Args:
        dim: width D of the tokens.
        num_experts: E.
        sizes: experts that belong to "image" and to "text"; a modality left out has none of its own.
        top_k: see `TopKRouter`.

    Raises:
        ArgumentError: more experts than E, or fewer than K for a modality.
    """

    reach: Bool[Tensor, "M E"]

    def __init__(self, dim: int, *, num_experts: int, sizes: Mapping[str, int], **top_k: Any) -> None:
        super().__init__(dim, num_experts=num_experts, **top_k)
        for name, size in sizes.items():
            require_argument(name in MODALITIES, "sizes", "a map of 'image' and 'text'", name)
            require_argument(isinstance(size, int) and size >= 0, f"sizes.{name}", "a whole number >= 0", size)
        own = [sizes.get(name, 0) for name in MODALITIES]
        shared = num_experts - sum(own)
        require_argument(shared >= 0, "sizes", f"at most num_experts={num_experts} in sum", dict(sizes))
        for name, size in zip(MODALITIES, own, strict=True):
            rule = f">= k={self.k} (with {shared} shared experts)"
            require_argument(size + shared >= self.k, f"sizes.{name}", rule, size)

        # [M, E] which modality reaches which expert
        expert = torch.arange(num_experts)
        of_image = expert < own[0]
        of_both = expert >= sum(own)
        of_text = ~of_image & ~of_both
        self.register_buffer("reach", torch.stack([of_image, of_text]) | of_both, persistent=False)

    def reachable(self, tokens: PackedTokens) -> Bool[Tensor, "T E"]:
        return self.reach[tokens.modality]
