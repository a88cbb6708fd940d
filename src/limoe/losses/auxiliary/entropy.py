"""Losses on entropies of one modality or of all tokens (LIMoE, arXiv 2206.02770). Clean gates, nats, minimised."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limoe.errors import require_argument
from limoe.losses.auxiliary.base import AuxLoss, is_number
from limoe.types import RouterOutput

MIN_FRACTION = {"image": 0.63, "text": 0.28}  # S / E: 20 and 9 of 32 in the paper's ablation model (*unverified*)


def token_entropy(routed: RouterOutput) -> Float[Tensor, "T 1"]:
    """H(p(. | x)) of every token."""
    gates = routed.log_probs.exp()
    return -(gates * routed.log_probs).sum(-1, keepdim=True)


def negative_entropy(mean_gate: Float[Tensor, "E"]) -> Float[Tensor, ""]:
    """-H(p). An expert whose mean gate underflows to 0 adds 0 and must not make the gradient infinite."""
    smallest = torch.finfo(mean_gate.dtype).tiny
    log_gate = mean_gate.clamp_min(smallest).log()
    return (mean_gate * log_gate).sum()


class LocalEntropy(AuxLoss):
    """Mean over the modality's tokens of H(p(. | x)), in nats: a low value means confident tokens.

    From 0 (every token confident, also when all choose the same expert) to ln E (undecided). No normalised value, since
    it is no measure of balance. 0 where the modality is absent. Source: the paper, section 3.

    Args:
        modality: "image" or "text"; None = all tokens.
    """

    def __init__(self, *, modality: str | None, **weights: Any) -> None:
        super().__init__(modality=modality, **weights)

    def __call__(self, routed: RouterOutput) -> Float[Tensor, ""]:
        mean, _ = self.token_mean(routed, token_entropy(routed))
        return mean[0]


class GlobalEntropy(AuxLoss):
    """max(0, tau - H(mean gate of the modality)), tau = ln S, in nats: the modality should use at least S experts.

    Without threshold -H(mean gate). Beyond S experts the thresholded form does not push. 0 where the modality is
    absent. At E = 32 the paper's ablation model has S = 9 for text and 20 for images (App. A.2, *unverified*); the
    options of `configs/aux_loss` take the same fractions of E, at least 2.
    Balanced 0, collapsed on one expert ln S (without threshold -ln E and 0). Normalised: min(1, exp(H) / S), the
    effective experts over those asked for; exp(H) / E without threshold. 1 is balanced, 1 / S or 1 / E collapsed.

    Args:
        modality: "image" or "text"; None = all tokens.
        min_experts: S as a number of experts; wins over `min_fraction`.
        min_fraction: S as a fraction of E, rounded, at least 2 and at most E. Both None = no threshold.
    """

    def __init__(
        self,
        *,
        modality: str | None,
        min_experts: float | None = None,
        min_fraction: float | None = None,
        **weights: Any,
    ) -> None:
        super().__init__(modality=modality, **weights)
        enough = min_experts is None or (is_number(min_experts) and min_experts >= 1)
        require_argument(enough, "min_experts", "a number >= 1 or null", min_experts)
        in_range = min_fraction is None or (is_number(min_fraction) and 0 < min_fraction <= 1)
        require_argument(in_range, "min_fraction", "a number in (0, 1] or null", min_fraction)
        self.min_experts = min_experts
        self.min_fraction = min_fraction

    def threshold(self, num_experts: int) -> float | None:
        """tau in nats for E experts, or None. Raises `ArgumentError` if more experts are asked for than there are."""
        if self.min_experts is not None:
            rule = f"<= num_experts={num_experts}"
            require_argument(self.min_experts <= num_experts, "min_experts", rule, self.min_experts)
            return math.log(self.min_experts)
        if self.min_fraction is not None:
            wanted = max(2, round(self.min_fraction * num_experts))
            return math.log(min(num_experts, wanted))
        return None

    def __call__(self, routed: RouterOutput) -> Float[Tensor, ""]:
        mean_gate, is_present = self.token_mean(routed, routed.log_probs.exp())
        loss = negative_entropy(mean_gate)
        tau = self.threshold(routed.num_experts)
        if tau is not None:
            loss = (tau + loss).clamp_min(0)
        return torch.where(is_present, loss, 0.0)

    def normalised(self, value: Float[Tensor, ""], num_experts: int) -> Float[Tensor, ""]:
        ratio = (-value).exp()  # exp(H) / S with a threshold, exp(H) without
        if self.threshold(num_experts) is None:
            return ratio / num_experts
        return ratio


class MutualInformation(AuxLoss):
    """-I(token; expert) = mean H(p(. | x)) - H(mean gate), in nats (Mod-Squad).

    Local plus global entropy without threshold, which is how Mod-Squad (arXiv 2212.08066) and ModuleFormer train; there
    the weight is 0.001 (*unverified*). -ln E with confident tokens spread over all experts; 0 when collapsed on one
    expert, also when every token is undecided. Normalised: I / ln E, from 0 to 1. 0 where the modality is absent.
    """

    def __call__(self, routed: RouterOutput) -> Float[Tensor, ""]:
        # [T, E + 1] gates and their entropy, so that both means are one sum over ranks
        values = torch.cat([routed.log_probs.exp(), token_entropy(routed)], dim=-1)
        mean, _ = self.token_mean(routed, values)
        return mean[-1] + negative_entropy(mean[:-1])

    def normalised(self, value: Float[Tensor, ""], num_experts: int) -> Float[Tensor, ""] | None:
        return -value / math.log(num_experts) if num_experts > 1 else None
