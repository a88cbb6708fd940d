"""Expert choice: every expert takes the tokens with the largest gates for it (arXiv 2202.09368)."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from limoe.errors import require_argument
from limoe.nn import lecun_normal_
from limoe.routing.base import Capacity, Groups, Router, Usage, capacity_usage, float32_linear, with_noise
from limoe.routing.dispatch import descending_key
from limoe.types import BUFFERS, Dispatcher, ExpertTokens, PackedTokens, RouterOutput


class ExpertChoiceRouter(Router):
    """Noisy softmax over experts as in token choice, then each expert takes the C tokens with the largest gates.

    It does so in each group. Equal gates: the token that comes first. A token is taken by none to E experts and gets
    sum_e gate_e * expert_e(x) over those. C counts from tokens, not from tokens x K: a factor of 1 is one expert per
    token on average. With no limit every expert takes every token.

    The RouterOutput shows one expert per token (K = 1): `expert_index` is the expert with the largest gate among those
    that took the token (among all where none did), `gate` that gate, `kept` whether any did. So the success rate is the
    share of tokens processed at least once, and loads count each token once. Only the dispatcher knows all experts.

    Which tokens are taken depends on the other tokens of the group, in evaluation where `eval_capacity_factor` is set
    (`depends_on_batch`; `limoe eval` says how much). In training the two sides of a pair compete for the same slots.

    Args:
        dim: width D of the tokens.
        num_experts: E.
        noise_std: in units of 1/E logits, training only; 0 = none.
        capacity_factor: see `Capacity`, as the next four; rounding and multiple are the reference's.
        count_pad: take padding like text.
    """

    has_threshold = False
    tokens_choose = False
    capacity: Capacity

    def __init__(
        self,
        dim: int,
        *,
        num_experts: int,
        noise_std: float = 1.0,
        capacity_factor: float | None = 1.0,
        eval_capacity_factor: float | None = 1.0,
        capacity_rounding: str = "round",
        capacity_multiple_of: int = 1,
        pairs_per_group: int | None = 8,
        count_pad: bool = False,
    ) -> None:
        super().__init__(num_experts=num_experts, count_pad=count_pad)
        require_argument(noise_std >= 0, "noise_std", ">= 0", noise_std)
        self.noise_std = noise_std
        self.capacity = Capacity(
            capacity_factor=capacity_factor,
            eval_capacity_factor=eval_capacity_factor,
            capacity_rounding=capacity_rounding,
            capacity_multiple_of=capacity_multiple_of,
            pairs_per_group=pairs_per_group,
        )
        self.weight = nn.Parameter(lecun_normal_(torch.empty(num_experts, dim)))

    def forward(self, x: Float[Tensor, "T D"], tokens: PackedTokens) -> tuple[Dispatcher, RouterOutput]:
        logits = float32_linear(x, self.weight)
        noise_std = self.noise_std / self.num_experts if self.training else 0.0
        noisy_logits = with_noise(logits, noise_std)
        gates = noisy_logits.softmax(-1)
        valid = self.counted(tokens)
        groups = self.capacity.groups(tokens, num_experts=self.num_experts, training=self.training)

        # [E, S] the tokens that each expert takes, and their gates
        token, taken = taken_tokens(gates, groups=groups, valid=valid, tokens=tokens)
        weight = gates.T.gather(1, token) * taken
        dispatcher = ExpertChoiceDispatcher(token, weight=weight, num_tokens=len(x))

        # [T, 1] of the experts that took a token, the one with the largest gate; of all, where none took it
        times_taken = torch.zeros_like(gates, dtype=torch.long).T
        times_taken = times_taken.scatter_add(1, token, taken.long()).T
        is_taken = times_taken > 0
        kept = is_taken.any(-1, keepdim=True)
        expert_index = gates.masked_fill(kept & ~is_taken, -1.0).argmax(-1, keepdim=True)
        routing = RouterOutput(
            logits=logits,
            noisy_logits=noisy_logits,
            gates=gates,
            expert_index=expert_index,
            gate=gates.gather(-1, expert_index),
            kept=kept,
            modality=tokens.modality,
            valid=valid,
            capacity=groups.capacity,
            noise_std=noise_std,
            modalities=tokens.modalities,
        )
        return dispatcher, routing

    @property
    def depends_on_batch(self) -> bool:
        return self.capacity.eval_capacity_factor is not None

    def usage(self, lengths: Mapping[str, int], *, pairs: int) -> Usage:
        return capacity_usage(self.capacity, lengths, num_experts=self.num_experts, k=1, pairs=pairs, filled=True)

    def notes(self) -> list[str]:
        return [
            "Experts choose tokens here (expert choice). Every token is shown at one expert: of those that took it, "
            "the one with the largest gate. Shares and loads count each token once, also one that no expert took; in "
            "the images that one has no colour. Which tokens are taken depends on the other tokens of a batch."
        ]


def taken_tokens(
    gates: Float[Tensor, "T E"], *, groups: Groups, valid: Bool[Tensor, "T"], tokens: PackedTokens
) -> tuple[Int[Tensor, "E S"], Bool[Tensor, "E S"]]:
    """The token in each slot of each expert, S = G * C, and which of the slots are filled.

    One stable sort per expert by group, padding last, then gate (read as float32).
    """
    num_tokens, num_experts = gates.shape
    slots = groups.capacity
    if slots is None:
        slots = groups.pairs * tokens.tokens_per_pair

    # [E, T] the tokens of each group together, those with the largest gate for the expert first
    gate_key = descending_key(gates.T.reshape(-1)).view(num_experts, num_tokens)
    is_padding = (~valid).long()
    group_key = groups.of_token * 2 + is_padding
    order = ((group_key << 32) + gate_key).sort(dim=-1, stable=True).indices

    # [G] tokens of each group, and where the group begins in the order
    number = torch.arange(groups.total, device=gates.device)
    size = torch.zeros_like(number)
    for segment in tokens.segments:
        size = size + (segment.size - number * groups.pairs).clamp(0, groups.pairs) * segment.length
    start = size.cumsum(0) - size

    # [G, C] the first C places of each group; a slot beyond the group's tokens repeats some token
    slot = torch.arange(slots, device=gates.device)
    place = (start[:, None] + slot).clamp_max(num_tokens - 1)
    token = order.index_select(1, place.view(-1))
    in_group = slot < size[:, None]
    return token, valid[token] & in_group.view(-1)


class ExpertChoiceDispatcher(Dispatcher):
    """Every expert computes S rows; empty slots compute some token in vain, with weight 0.

    Rows are added up per token with `index_add`, and so are gradients in the backward of `dispatch`: on a GPU the order
    of these additions, and so the last digit, may vary unless `trainer.deterministic=true`.

    Args:
        token: the token in each slot.
        weight: its gate; 0 in empty slots.
        num_tokens: T.
    """

    def __init__(self, token: Int[Tensor, "E S"], *, weight: Float[Tensor, "E S"], num_tokens: int) -> None:
        self.token = token
        self.weight = weight
        self.num_tokens = num_tokens
        self.num_rows = {BUFFERS: token.numel()}

    def dispatch(self, x: Float[Tensor, "T D"], layout: str) -> ExpertTokens:
        num_experts, slots = self.token.shape
        rows = x.index_select(0, self.token.view(-1))
        return ExpertTokens(rows.view(num_experts, slots, x.shape[-1]))

    def combine(self, expert_tokens: ExpertTokens) -> Float[Tensor, "T D"]:
        # [E * S, D] every row times its gate
        weighted = expert_tokens.tokens * self.weight[..., None]
        weighted = weighted.flatten(0, 1)

        # [T, D] the sum of the rows of each token
        total = weighted.new_zeros(self.num_tokens, weighted.shape[-1])
        return total.index_add(0, self.token.view(-1), weighted)
