"""The balance loss of GShard (arXiv 2006.16668) and Switch (arXiv 2101.03961): one formula under two names."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limoe.losses.auxiliary.base import AuxLoss
from limoe.types import RouterOutput


class Balance(AuxLoss):
    """E * sum_e f_e P_e (GShard, Switch; vmoe). No unit.

    f_e: share of tokens whose first choice is e, before drops, without gradient, also for K > 1 (GShard, vmoe).
    P_e: mean gate of e. As in vmoe it is the gate used for dispatch, with noise, unlike importance and the entropies.
    Balanced 1, collapsed on one expert E. 1 is no lower bound: f and P may disagree. Normalised: the loss itself.
    """

    def __call__(self, routed: RouterOutput) -> Float[Tensor, ""]:
        num_experts = routed.num_experts
        first_choice = F.one_hot(routed.expert_index[:, 0], num_experts).to(routed.gates.dtype)
        # [T, 2 * E] first choices and gates, so that both means are one sum over ranks
        values = torch.cat([first_choice, routed.gates], dim=-1)
        mean, _ = self.token_mean(routed, values)
        share, mean_gate = mean.split(num_experts)
        return num_experts * (share.detach() @ mean_gate)

    def normalised(self, value: Float[Tensor, ""], num_experts: int) -> Float[Tensor, ""]:
        return value
