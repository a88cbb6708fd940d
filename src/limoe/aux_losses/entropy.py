"""The entropy losses of LIMoE, one per modality (arXiv 2206.02770). Clean gates, nats, everything is minimised."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from limoe.aux_losses.base import AuxLoss, modality_id
from limoe.errors import require
from limoe.types import RouterOutput


class LocalEntropy(AuxLoss):
    """Mean over the modality's tokens of H(p(. | x)): each token should be sure of its expert. 0 where it is absent.

    Args:
        modality: "image" or "text".
    """

    def __init__(self, *, modality: str, weight: float = 1.0) -> None:
        super().__init__(weight=weight)
        self.modality = modality_id(modality)

    def __call__(self, routed: RouterOutput) -> Float[Tensor, ""]:
        weight = routed.weight_of(self.modality)
        entropy = -(routed.log_probs.exp() * routed.log_probs).sum(-1)
        return weight @ entropy / weight.sum().clamp_min(1)


class GlobalEntropy(AuxLoss):
    """max(0, tau - H(mean gate of the modality)), tau = ln S: the modality should use at least S experts.

    Without threshold -H(mean gate). Beyond S experts the thresholded form does not push. 0 where the modality is
    absent. At E = 32 the paper's ablation model has S = 9 for text and 20 for images (App. A.2, second-hand); for other
    E we take the same fractions of E, at least 2.

    Args:
        modality: "image" or "text".
        min_experts: S as a number of experts; wins over `min_fraction`.
        min_fraction: S as a fraction of E, rounded, at least 2 and at most E. Both None = no threshold.
    """

    def __init__(
        self,
        *,
        modality: str,
        min_experts: float | None = None,
        min_fraction: float | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        key = f"aux_loss.global_{modality}"
        require(min_experts is None or min_experts >= 1, f"{key}.min_experts", ">= 1 or null", min_experts)
        in_range = min_fraction is None or 0 < min_fraction <= 1
        require(in_range, f"{key}.min_fraction", "in (0, 1] or null", min_fraction)
        self.modality = modality_id(modality)
        self.min_experts, self.min_fraction = min_experts, min_fraction

    def threshold(self, num_experts: int) -> float | None:
        """tau in nats for E experts, or None.

        Raises:
            ConfigError: more experts are asked for than there are.
        """
        if self.min_experts is not None:
            rule = f"<= model.num_experts={num_experts}"
            require(self.min_experts <= num_experts, "aux_loss.global_*.min_experts", rule, self.min_experts)
            return math.log(self.min_experts)
        if self.min_fraction is not None:
            return math.log(min(num_experts, max(2, round(self.min_fraction * num_experts))))
        return None

    def __call__(self, routed: RouterOutput) -> Float[Tensor, ""]:
        weight = routed.weight_of(self.modality)
        count = weight.sum()
        mean_gate = weight @ routed.log_probs.exp() / count.clamp_min(1)
        # an expert whose mean gate underflows to 0 adds 0 to the entropy and must not make the gradient infinite
        log_mean_gate = mean_gate.clamp_min(torch.finfo(mean_gate.dtype).tiny).log()
        loss = (mean_gate * log_mean_gate).sum()
        tau = self.threshold(routed.num_experts)
        if tau is not None:
            loss = (tau + loss).clamp_min(0)
        return torch.where(count > 0, loss, 0.0)
