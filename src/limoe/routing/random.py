"""Any expert, by chance: the lower bound that every other way of routing should beat."""

import torch
from jaxtyping import Int
from torch import Tensor

from limoe.routing.fixed import FixedRouter
from limoe.types import Stream


class RandomRouter(FixedRouter):
    """A uniformly random expert for each token, drawn anew at every call, in evaluation too.

    So features of the same sample differ from call to call.
    """

    @property
    def depends_on_batch(self) -> bool:
        return True

    def expert_of(self, stream: Stream) -> Int[Tensor, "T"]:
        return torch.randint_like(stream.modality, self.num_experts)
