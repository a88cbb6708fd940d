"""The balance losses of V-MoE (arXiv 2106.05974), of GShard (2006.16668) and Switch (2101.03961), and the z-loss of
ST-MoE (2202.08906).

As published they look at all tokens alike; `modality` restricts each to one modality (an ablation of the paper,
*unverified*).
CV^2(v) = population variance / mean^2 (not std / mean squared after the fact: the root has an infinite slope at 0).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limoe.errors import LimoeError
from limoe.losses.auxiliary.base import AuxLoss
from limoe.types import RouterOutput


def squared_cv(x: Float[Tensor, "E"]) -> Float[Tensor, ""]:
    """Squared coefficient of variation with the population variance; 0 where x sums to 0."""
    mean = x.mean()
    variance = x.var(unbiased=False)
    ratio = variance / mean.square().clamp_min(1e-30)
    return torch.where(mean > 0, ratio, 0.0)


class Importance(AuxLoss):
    """CV^2 of imp_e = sum over tokens of the clean gate p_e (V-MoE; vmoe). No unit.

    Balanced 0, collapsed on one expert E - 1. Normalised: 1 + CV^2 = E * sum_e (share of e)^2, from 1 to E.
    Over all tokens it is blind to a small modality: total collapse of text costs only (text share)^2 (E - 1).
    """

    def __call__(self, routed: RouterOutput) -> Float[Tensor, ""]:
        mean_gate, _ = self.token_mean(routed, routed.log_probs.exp())
        return squared_cv(mean_gate)

    def normalised(self, value: Float[Tensor, ""], num_experts: int) -> Float[Tensor, ""]:
        return 1 + value


class Load(AuxLoss):
    """CV^2 of load_e = sum over tokens of P(expert e is among the K chosen under fresh noise) (V-MoE; vmoe). No unit.

    P = 1 - Phi((eta - logit_e) / sigma), eta = K-th largest noisy logit of the token, logit_e clean.
    Balanced 0, collapsed on one expert E - 1 (on the same K: E / K - 1). Normalised: 1 + CV^2, from 1 to E.

    Raises:
        LimoeError: the router has no noise; then the loss is undefined.
    """

    needs_noise = True

    def __call__(self, routed: RouterOutput) -> Float[Tensor, ""]:
        if routed.noise_std <= 0:
            raise LimoeError("the load loss is undefined without router noise: set noise_std > 0, or leave it out")
        # [T, 1] the K-th largest noisy logit, and [T, E] how far above it each clean logit is, in standard deviations
        threshold = routed.noisy_logits.gather(-1, routed.expert_index[:, -1:])
        distance = (routed.logits - threshold) / routed.noise_std
        probability = torch.special.ndtr(distance)
        mean, _ = self.token_mean(routed, probability)
        return squared_cv(mean)

    def normalised(self, value: Float[Tensor, ""], num_experts: int) -> Float[Tensor, ""]:
        return 1 + value


class ZLoss(AuxLoss):
    """Mean over tokens of (ln sum_e exp logit_e)^2 (ST-MoE; paper App. B.1, *unverified*), in squared nats.

    Keeps logits small and says nothing about balance; (ln E)^2 where all logits are 0.
    """

    def __call__(self, routed: RouterOutput) -> Float[Tensor, ""]:
        log_z = routed.logits.logsumexp(-1, keepdim=True)  # T, 1
        mean, _ = self.token_mean(routed, log_z.square())
        return mean[0]


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
