"""Token choice: every token picks its K experts (V-MoE, LIMoE)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from timm.layers import lecun_normal_
from torch import Tensor, nn

from limoe.errors import require
from limoe.routing.dispatch import expert_capacity, plan_dispatch
from limoe.routing.priority import Priority
from limoe.types import RouterOutput, Stream


class TopKRouter(nn.Module):
    """One bias-free linear map D -> E, shared by both modalities; softmax over all experts, then the K largest.

    In training Normal(0, (noise_std / E)^2) is added to the logits; the noisy softmax selects, orders and weighs
    (paper App. B.1; vmoe). Gates are not renormalised, so at K = 1 the gate carries the router's task gradient.
    Logits and softmax are float32 (float64 for float64 input) whatever the precision of the run.

    Args:
        dim: width D of the tokens.
        num_experts: E.
        priority: who sits first, see `limoe.routing.priority`.
        eval_priority: the same in evaluation; None = as in training.
        k: experts per token.
        noise_std: in units of 1/E logits; 0 = none (then the load loss is undefined).
        renormalize_gates: divide the K gates by their sum (GShard); at K = 1 the router then has no task gradient.
        capacity_factor: seats = factor x fair share, per expert and group; None = no limit.
        eval_capacity_factor: the same in evaluation. No limit by default, so a sample never depends on its batch.
        capacity_multiple_of: seats are rounded up to a multiple of this (vmoe: 4).
        pairs_per_group: pairs that share seats; None = all of the process. Tokens per group follow from the batch.
        count_pad: route padding like text, as the reference does, instead of leaving it out.

    Raises:
        ConfigError: a value breaks its rule.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_experts: int,
        priority: Priority,
        eval_priority: Priority | None = None,
        k: int = 1,
        noise_std: float = 1.0,
        renormalize_gates: bool = False,
        capacity_factor: float | None = 1.05,
        eval_capacity_factor: float | None = None,
        capacity_multiple_of: int = 4,
        pairs_per_group: int | None = 8,
        count_pad: bool = False,
    ) -> None:
        super().__init__()
        require(1 <= k <= num_experts, "routing.k", f"between 1 and model.num_experts={num_experts}", k)
        require(noise_std >= 0, "routing.noise_std", ">= 0", noise_std)
        for key, factor in (("capacity_factor", capacity_factor), ("eval_capacity_factor", eval_capacity_factor)):
            require(factor is None or factor > 0, f"routing.{key}", "> 0 or null", factor)
        require(capacity_multiple_of >= 1, "routing.capacity_multiple_of", ">= 1", capacity_multiple_of)
        require(
            pairs_per_group is None or pairs_per_group >= 1, "routing.pairs_per_group", ">= 1 or null", pairs_per_group
        )
        self.num_experts, self.k, self.noise_std = num_experts, k, noise_std
        self.renormalize_gates, self.count_pad = renormalize_gates, count_pad
        self.capacity_factor, self.eval_capacity_factor = capacity_factor, eval_capacity_factor
        self.capacity_multiple_of, self.pairs_per_group = capacity_multiple_of, pairs_per_group
        self.priority, self.eval_priority = priority, eval_priority
        self.weight = nn.Parameter(torch.empty(num_experts, dim))
        lecun_normal_(self.weight)

    def forward(self, x: Float[Tensor, "T D"], stream: Stream) -> RouterOutput:
        logits = self._logits(x)
        noise_std = self.noise_std / self.num_experts if self.training else 0.0
        noisy_logits = logits + noise_std * torch.randn_like(logits) if noise_std > 0 else logits
        gates = noisy_logits.softmax(-1)
        expert_index = top_k_index(gates, self.k)
        gate = gates.gather(-1, expert_index)
        top_gate = gate[:, 0]
        if self.renormalize_gates:
            gate = gate / gate.sum(-1, keepdim=True)
        valid = torch.ones_like(stream.valid) if self.count_pad else stream.valid
        pairs, capacity = self._group(stream)
        priority = self.priority if self.training else self.eval_priority or self.priority
        plan, kept = plan_dispatch(
            expert_index,
            gate=gate,
            score=priority(top_gate, stream),
            group=stream.pair // pairs,
            valid=valid,
            num_experts=self.num_experts,
            num_groups=-(-stream.num_pairs // pairs),
            capacity=capacity,
        )
        return RouterOutput(
            logits=logits,
            noisy_logits=noisy_logits,
            gates=gates,
            expert_index=expert_index,
            gate=gate,
            kept=kept,
            modality=stream.modality,
            valid=valid,
            capacity=capacity,
            noise_std=noise_std,
            plan=plan,
        )

    def _logits(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "T E"]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(dtype), self.weight.to(dtype))

    def _group(self, stream: Stream) -> tuple[int, int | None]:
        """Pairs of one routing group, and the seats of an expert there (never more than the group has tokens)."""
        pairs = min(self.pairs_per_group or stream.num_pairs, stream.num_pairs)
        factor = self.capacity_factor if self.training else self.eval_capacity_factor
        if factor is None:
            return pairs, None
        tokens = pairs * stream.tokens_per_pair
        seats = expert_capacity(
            tokens * self.k,
            num_experts=self.num_experts,
            capacity_factor=factor,
            multiple_of=self.capacity_multiple_of,
        )
        return pairs, min(seats, tokens)


def top_k_index(gates: Float[Tensor, "T E"], k: int) -> Int[Tensor, "T K"]:
    """The K largest gates, largest first; equal gates go to the lower expert (`torch.topk` promises no order)."""
    if k == 1:
        return gates.argmax(-1, keepdim=True)
    return gates.sort(dim=-1, descending=True, stable=True).indices[:, :k]
