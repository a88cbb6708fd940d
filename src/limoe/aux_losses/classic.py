"""The balance losses of V-MoE (arXiv 2106.05974) and the z-loss of ST-MoE. They do not know modalities.

CV^2(v) = population variance / mean^2 (not std / mean squared after the fact: the root has an infinite slope at 0).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from limoe.aux_losses.base import AuxLoss
from limoe.errors import ConfigError
from limoe.types import RouterOutput


def squared_cv(x: Float[Tensor, "E"]) -> Float[Tensor, ""]:
    """Squared coefficient of variation with the population variance; 0 where x sums to 0."""
    mean = x.mean()
    return torch.where(mean > 0, x.var(unbiased=False) / mean.square().clamp_min(1e-30), 0.0)


class Importance(AuxLoss):
    """CV^2 of imp_e = sum over tokens of the clean gate p_e (V-MoE). 0 = balanced, E - 1 = one expert.

    Blind to a small modality: total collapse of text costs only (text share)^2 (E - 1).
    """

    def __call__(self, routed: RouterOutput) -> Float[Tensor, ""]:
        return squared_cv(routed.weight_of(None) @ routed.log_probs.exp())


class Load(AuxLoss):
    """CV^2 of load_e = sum over tokens of P(expert e is among the K chosen under fresh noise) (V-MoE).

    P = 1 - Phi((eta - logit_e) / sigma), eta = K-th largest noisy logit of the token, logit_e clean.

    Raises:
        ConfigError: the router has no noise; then the loss is undefined.
    """

    needs_noise = True

    def __call__(self, routed: RouterOutput) -> Float[Tensor, ""]:
        if routed.noise_std <= 0:
            raise ConfigError(
                "aux_loss.load needs router noise: set routing.noise_std > 0 or drop it with ~aux_loss.load"
            )
        threshold = routed.noisy_logits.gather(-1, routed.expert_index[:, -1:])
        probability = torch.special.ndtr((routed.logits - threshold) / routed.noise_std)
        return squared_cv(routed.weight_of(None) @ probability)


class ZLoss(AuxLoss):
    """Mean over tokens of (ln sum_e exp logit_e)^2: keeps logits small (ST-MoE; paper App. B.1, second-hand)."""

    def __call__(self, routed: RouterOutput) -> Float[Tensor, ""]:
        weight = routed.weight_of(None)
        return weight @ routed.logits.logsumexp(-1).square() / weight.sum().clamp_min(1)
