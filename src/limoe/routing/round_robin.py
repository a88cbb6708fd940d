"""One expert after the other: perfectly balanced, for measuring speed."""

import torch
from jaxtyping import Int
from torch import Tensor

from limoe.routing.fixed import FixedRouter
from limoe.types import Stream


class RoundRobinRouter(FixedRouter):
    """Expert = place in the packed stream modulo E. Padding takes its turn too, though it is not computed."""

    @property
    def depends_on_batch(self) -> bool:
        """A sample's place in the stream follows from its place in the batch."""
        return True

    def expert_of(self, stream: Stream) -> Int[Tensor, "T"]:
        return torch.arange(stream.modality.shape[0], device=stream.modality.device) % self.num_experts
