"""Load balancing without a loss: a bias per expert that selects and does not weigh (DeepSeek, arXiv 2408.15664)."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limoe.errors import require_argument
from limoe.nn import StepUpdated
from limoe.parallel.collectives import all_reduce_sum
from limoe.types import MODALITIES


class BiasBalance(StepUpdated):
    """Tokens select by gate + b_e and are weighed by the gate alone; b_e falls while expert e has too many tokens.

    After each optimizer step, with t_e the assignments of all ranks since the last one, before drops and without
    padding: b_e -= rate * sign(t_e - mean t), or b_e -= rate * (t_e - mean t) / std t (MoE-ViE). DeepSeek adds the bias
    to sigmoid scores; here it is added to softmax gates, so the rate is in units of probability. One bias per modality
    is our variant, untested in the literature known to us.

    Args:
        num_experts: E.
        rule: "sign" or "z_score".
        rate: size of a step, in gates.
        per_modality: balance each modality by itself instead of their sum.
    """

    bias: Float[Tensor, "M E"]
    counts: Int[Tensor, "M E"]

    def __init__(self, num_experts: int, *, rule: str = "sign", rate: float = 1e-3, per_modality: bool = False) -> None:
        super().__init__()
        require_argument(rule in ("sign", "z_score"), "bias_balance.rule", "'sign' or 'z_score'", rule)
        require_argument(rate > 0, "bias_balance.rate", "> 0", rate)
        self.rule = rule
        self.rate = rate
        self.per_modality = per_modality
        rows = len(MODALITIES) if per_modality else 1
        self.register_buffer("bias", torch.zeros(rows, num_experts))
        # whole numbers: a module cast to bfloat16 must still be able to count
        self.register_buffer("counts", torch.zeros(rows, num_experts, dtype=torch.long), persistent=False)

    @classmethod
    def of(cls, settings: Mapping[str, Any], *, num_experts: int) -> "BiasBalance":
        """From the config's mapping, whose keys are all optional."""
        known = ("rule", "rate", "per_modality")
        for key in settings:
            require_argument(key in known, "bias_balance", f"a map with keys among {', '.join(known)}", key)
        return cls(num_experts, **settings)

    def forward(self, gates: Float[Tensor, "T E"], modality: Int[Tensor, "T"]) -> Float[Tensor, "T E"]:
        """The scores that tokens select by; without gradient, since a choice has none."""
        bias = self.bias.to(gates.dtype)  # M, E
        if self.per_modality:
            bias = bias[modality]  # T, E
        return gates.detach() + bias

    @torch.no_grad()
    def count(self, expert_index: Int[Tensor, "T K"], *, modality: Int[Tensor, "T"], valid: Bool[Tensor, "T"]) -> None:
        """Add the assignments of one batch to the counts."""
        if not self.counting:
            return
        # [T, K] the cell of the counts [M, E], seen as a flat list, to which each assignment adds 1 (padding: 0)
        row = modality if self.per_modality else torch.zeros_like(modality)
        num_experts = self.counts.shape[1]
        cell = row[:, None] * num_experts + expert_index
        number = valid.long()[:, None].expand_as(cell)
        self.counts.view(-1).scatter_add_(0, cell.reshape(-1), number.reshape(-1))

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the bias by what was counted and start anew; the same on every rank."""
        counts = all_reduce_sum(self.counts.double())
        excess = counts - counts.mean(-1, keepdim=True)
        if self.rule == "sign":
            step = excess.sign()
        else:
            deviation = counts.std(-1, unbiased=False, keepdim=True)
            step = excess / deviation.clamp_min(torch.finfo(counts.dtype).tiny)  # 0 where all counts are equal
        self.bias -= (self.rate * step).to(self.bias.dtype)
        self.counts.zero_()
