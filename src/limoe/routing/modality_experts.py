"""Experts that belong to one modality, and perhaps some that are shared."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from limoe.errors import require
from limoe.routing.top_k import TopKRouter
from limoe.types import MODALITIES, Stream


class ModalityExpertsRouter(TopKRouter):
    """Top K among the experts of the token's modality, in the order image experts, text experts, shared experts.

    With `sizes` that sum to E the modalities never meet (MoMa, arXiv 2407.21770, has 4 + 4 experts; its experts choose
    the tokens, though). What `sizes` leaves over is open to both. Balance losses over all tokens then have a floor
    above 0 unless the sizes fit the shares of tokens.

    Args:
        dim: width D of the tokens.
        num_experts: E.
        sizes: experts that belong to "image" and to "text"; a modality left out has none of its own.
        settings: see `TokenChoiceRouter`, `SeatedRouter` and `Router`.

    Raises:
        ConfigError: more experts than E, or fewer than K for a modality.
    """

    reach: Bool[Tensor, "M E"]

    def __init__(self, dim: int, *, num_experts: int, sizes: Mapping[str, int], **settings: Any) -> None:
        super().__init__(dim, num_experts=num_experts, **settings)
        for name, size in sizes.items():
            require(name in MODALITIES, "routing.sizes", "a map of 'image' and 'text'", name)
            require(isinstance(size, int) and size >= 0, f"routing.sizes.{name}", "a whole number >= 0", size)
        own = [sizes.get(name, 0) for name in MODALITIES]
        shared = num_experts - sum(own)
        require(shared >= 0, "routing.sizes", f"at most model.num_experts={num_experts} in sum", dict(sizes))
        for name, size in zip(MODALITIES, own, strict=True):
            rule = f">= routing.k={self.k} (with {shared} shared experts)"
            require(size + shared >= self.k, f"routing.sizes.{name}", rule, size)
        expert = torch.arange(num_experts)
        rows = [expert < own[0], (expert >= own[0]) & (expert < sum(own))]
        self.register_buffer("reach", torch.stack(rows) | (expert >= sum(own)), persistent=False)

    def reachable(self, stream: Stream) -> Bool[Tensor, "T E"]:
        return self.reach[stream.modality]
