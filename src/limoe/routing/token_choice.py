"""Token choice: each token chooses K experts, then priority and capacity decide which assignments are kept."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from limoe.errors import require_argument
from limoe.nn import lecun_normal_
from limoe.routing.base import Capacity, Router, Usage, capacity_usage, float32_linear, with_noise
from limoe.routing.bias_balance import BiasBalance
from limoe.routing.dispatch import SlotDispatcher, assign_slots
from limoe.routing.priority import Priority, follows_position
from limoe.types import Dispatcher, PackedTokens, RouterOutput

UNREACHABLE_LOGIT = (
    -1e9
)  # logit of an expert out of reach: its gate is exactly 0, and unlike -inf it gives no NaN anywhere


class Choice(NamedTuple):
    """The choices of the tokens, before slots are assigned."""

    logits: Float[Tensor, "T E"]
    noisy_logits: Float[Tensor, "T E"]
    gates: Float[Tensor, "T E"]
    expert_index: Int[Tensor, "T K"]
    gate: Float[Tensor, "T K"]
    top_gate: Float[Tensor, "T"]  # gate of the first choice before renormalisation, by which priorities order
    noise_std: float = 0.0  # in logits


class TokenChoiceRouter(Router):
    """Slots by priority for the choices of the tokens. Subclasses define `choose(x, tokens) -> Choice`.

    Args:
        num_experts: E.
        k: experts per token.
        priority: which tokens get a slot first, see `limoe.routing.priority`.
        eval_priority: the same in evaluation; None = as in training.
        capacity_factor: see `Capacity`, as the next four.
        count_pad: route padding like text.
    """

    capacity: Capacity
    priority: Priority
    # False: all tokens have the same gate, so an order by gates is the order of the tokens.
    gates_differ = True

    def __init__(
        self,
        *,
        num_experts: int,
        k: int = 1,
        priority: Priority,
        eval_priority: Priority | None = None,
        capacity_factor: float | None = 1.05,
        eval_capacity_factor: float | None = None,
        capacity_rounding: str = "ceil",
        capacity_multiple_of: int = 4,
        pairs_per_group: int | None = 8,
        count_pad: bool = False,
    ) -> None:
        super().__init__(num_experts=num_experts, count_pad=count_pad)
        require_argument(1 <= k <= num_experts, "k", f"between 1 and num_experts={num_experts}", k)
        self.k = k
        self.priority = priority
        self.eval_priority = eval_priority
        self.capacity = Capacity(
            capacity_factor=capacity_factor,
            eval_capacity_factor=eval_capacity_factor,
            capacity_rounding=capacity_rounding,
            capacity_multiple_of=capacity_multiple_of,
            pairs_per_group=pairs_per_group,
        )

    @abstractmethod
    def choose(self, x: Float[Tensor, "T D"], tokens: PackedTokens) -> Choice:
        """The experts that each token chooses, and their gates."""

    def forward(self, x: Float[Tensor, "T D"], tokens: PackedTokens) -> tuple[Dispatcher, RouterOutput]:
        choice = self.choose(x, tokens)

        # the slots of the chosen experts, by group and priority
        valid = self.counted(tokens)
        groups = self.capacity.groups(tokens, num_experts=self.num_experts, k=self.k, training=self.training)
        priority = self.priority
        if not self.training and self.eval_priority is not None:
            priority = self.eval_priority
        assignment = assign_slots(
            choice.expert_index,
            score=priority(choice.top_gate, tokens),
            group=groups.of_token,
            valid=valid,
            num_experts=self.num_experts,
            num_groups=groups.total,
            capacity=groups.capacity,
        )
        dispatcher = SlotDispatcher(assignment, gate=choice.gate, capacity=groups.capacity)

        routing = RouterOutput(
            logits=choice.logits,
            noisy_logits=choice.noisy_logits,
            gates=choice.gates,
            expert_index=choice.expert_index,
            gate=choice.gate,
            kept=assignment.kept,
            modality=tokens.modality,
            valid=valid,
            capacity=groups.capacity,
            noise_std=choice.noise_std,
            modalities=tokens.modalities,
        )
        return dispatcher, routing

    @property
    def depends_on_batch(self) -> bool:
        return self.capacity.eval_capacity_factor is not None

    def drops_by_position(self, priority: Priority | None = None) -> bool:
        factor = self.capacity.capacity_factor
        if factor is None or factor * self.k >= self.num_experts:  # a slot for every token
            return False
        return follows_position(priority or self.priority, gates_differ=self.gates_differ)

    def usage(self, lengths: Mapping[str, int], *, pairs: int) -> Usage:
        return capacity_usage(self.capacity, lengths, num_experts=self.num_experts, k=self.k, pairs=pairs)

    def notes(self) -> list[str]:
        found = []
        if self.k > 1:
            shown = "Patches and words are listed at each of them; coloured images show the first choice."
            found.append(f"A token has {self.k} experts. {shown}")
        factor = self.capacity.eval_capacity_factor
        if factor is not None:
            limit = f"the capacity in evaluation too (factor {factor})"
            found.append(f"This run limits {limit}: dropped tokens are at no expert.")
        return found


class TopKRouter(TokenChoiceRouter):
    """Softmax of one bias-free linear map D -> E, shared by both modalities, then the K largest gates (LIMoE, V-MoE).

    In training Normal(0, (noise_std / E)^2) is added to the logits; the noisy softmax selects, orders and weighs
    (paper App. B.1; vmoe). Gates are not renormalised, so at K = 1 the gate carries the router's task gradient.
    Logits are float32 (float64 for float64 input). Subclasses may define `logits` and, where not every token may choose
    every expert, `reachable`.

    Args:
        dim: width D of the tokens.
        noise_std: in units of 1/E logits; 0 = none (then the load loss is undefined).
        renormalize_gates: divide the K gates by their sum (GShard); at K = 1 the router then has no task gradient.
        frozen: keep the router as it is drawn: experts follow the content of a token, without learning which. Losses on
            the router still move the tokens.
        bias_balance: settings of `BiasBalance` (select by gate + bias, weigh by gate); None = off.
        token_choice: see `TokenChoiceRouter`.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_experts: int,
        noise_std: float = 1.0,
        renormalize_gates: bool = False,
        frozen: bool = False,
        bias_balance: Mapping[str, Any] | None = None,
        **token_choice: Any,
    ) -> None:
        super().__init__(num_experts=num_experts, **token_choice)
        require_argument(noise_std >= 0, "noise_std", ">= 0", noise_std)
        self.noise_std = noise_std
        self.renormalize_gates = renormalize_gates
        self.balance = None if bias_balance is None else BiasBalance.of(bias_balance, num_experts=num_experts)
        self.weight = self.new_weight(dim).requires_grad_(not frozen)

    def new_weight(self, dim: int) -> nn.Parameter:
        """The weight of the linear map, lecun-normal."""
        return nn.Parameter(lecun_normal_(torch.empty(self.num_experts, dim)))

    def logits(self, x: Float[Tensor, "T D"], tokens: PackedTokens) -> Float[Tensor, "T E"]:
        return float32_linear(x, self.weight)

    def reachable(self, tokens: PackedTokens) -> Bool[Tensor, "T E"] | None:
        """Which experts a token may choose; None = all. The others get no gate, no gradient and no token."""
        return None

    def choose(self, x: Float[Tensor, "T D"], tokens: PackedTokens) -> Choice:
        # [T, E] logits without and with noise
        logits = self.logits(x, tokens)
        noise_std = self.noise_std / self.num_experts if self.training else 0.0
        noisy_logits = with_noise(logits, noise_std)
        reachable = self.reachable(tokens)
        if reachable is not None:
            logits = logits.masked_fill(~reachable, UNREACHABLE_LOGIT)
            noisy_logits = noisy_logits.masked_fill(~reachable, UNREACHABLE_LOGIT)

        # [T, K] the chosen experts and their gates
        gates = noisy_logits.softmax(-1)
        expert_index = self._select(gates, tokens, reachable)
        gate = gates.gather(-1, expert_index)
        top_gate = gate[:, 0]
        if self.renormalize_gates:
            gate = gate / gate.sum(-1, keepdim=True)
        return Choice(logits, noisy_logits, gates, expert_index, gate, top_gate, noise_std)

    def _select(
        self, gates: Float[Tensor, "T E"], tokens: PackedTokens, reachable: Bool[Tensor, "T E"] | None
    ) -> Int[Tensor, "T K"]:
        if self.balance is None:
            return top_k_index(gates, self.k)
        scores = self.balance(gates, tokens.modality)
        if reachable is not None:
            scores = scores.masked_fill(~reachable, -float("inf"))
        expert_index = top_k_index(scores, self.k)
        if self.training:
            self.balance.count(expert_index, modality=tokens.modality, valid=self.counted(tokens))
        return expert_index


def top_k_index(scores: Float[Tensor, "T E"], k: int) -> Int[Tensor, "T K"]:
    """The K largest, largest first; equal ones go to the lower expert (`torch.topk` promises no order)."""
    if k == 1:
        return scores.argmax(-1, keepdim=True)
    return scores.sort(dim=-1, descending=True, stable=True).indices[:, :k]
