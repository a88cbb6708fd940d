"""Soft MoE: experts compute mixtures of tokens (arXiv 2308.00951)."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limoe.errors import require_argument
from limoe.nn import lecun_normal_
from limoe.routing.base import Router, Usage, float32_linear, with_noise
from limoe.types import BUFFERS, Dispatcher, ExpertTokens, PackedTokens, RouterOutput


class SoftRouter(Router):
    """Each of E * P slots takes a softmax mixture of the tokens of a sequence; each token a softmax mixture of slots.

    logits = scale * x_hat . mu_hat with v_hat = v / sqrt(|v|^2 + 1e-6); slots mix the raw tokens. A group is ONE
    sequence, an image or a text, and cannot be more: slots shared by a pair, or by a batch, would carry the image
    into the text's features, which solves the contrastive task without learning anything.

    As a RouterOutput: the logit of an expert is the logsumexp over its slots, so `gates` is the share of a token's
    output that comes from each expert; `expert_index` (K = 1) is the largest, every real token is `kept`, `capacity`
    is P. Losses that need noise are undefined, the others see these shares.

    Args:
        dim: width D of the tokens.
        num_experts: E.
        slots_per_expert: P, per sequence. The paper's default is one slot per token: P = length / E.
        noise_std: of the slot logits, in logits (not divided by E), training only.
        count_pad: mix padding into the slots like text, instead of leaving it out.
    """

    has_threshold = False
    tokens_choose = False
    depends_on_batch = False

    def __init__(
        self, dim: int, *, num_experts: int, slots_per_expert: int, noise_std: float = 0.0, count_pad: bool = False
    ) -> None:
        super().__init__(num_experts=num_experts, count_pad=count_pad)
        require_argument(slots_per_expert >= 1, "slots_per_expert", ">= 1", slots_per_expert)
        require_argument(noise_std >= 0, "noise_std", ">= 0", noise_std)
        self.slots_per_expert = slots_per_expert
        self.noise_std = noise_std
        self.weight = nn.Parameter(torch.empty(num_experts * slots_per_expert, dim))
        self.scale = nn.Parameter(torch.ones(()))
        lecun_normal_(self.weight)

    def forward(self, x: Float[Tensor, "T D"], tokens: PackedTokens) -> tuple[Dispatcher, RouterOutput]:
        # [T, E * P] logits of every slot
        slot_logits = self.scale * float32_linear(unit_vectors(x), unit_vectors(self.weight))
        noisy_slot_logits = with_noise(slot_logits, self.noise_std if self.training else 0.0)
        valid = self.counted(tokens)

        # [T, E] logits of every expert
        logits = slot_logits.unflatten(1, (self.num_experts, -1)).logsumexp(-1)
        noisy_logits = noisy_slot_logits.unflatten(1, (self.num_experts, -1)).logsumexp(-1)
        gates = noisy_logits.softmax(-1)
        expert_index = gates.argmax(-1, keepdim=True)
        routing = RouterOutput(
            logits=logits,
            noisy_logits=noisy_logits,
            gates=gates,
            expert_index=expert_index,
            gate=gates.gather(-1, expert_index),
            kept=valid[:, None],
            modality=tokens.modality,
            valid=valid,
            capacity=self.slots_per_expert,
            noise_std=0.0,  # the noise is on slot logits; losses that need noise on these are refused (`has_threshold`)
            modalities=tokens.modalities,
        )
        dispatcher = SoftDispatcher(noisy_slot_logits, valid=valid, tokens=tokens, num_experts=self.num_experts)
        return dispatcher, routing

    def usage(self, lengths: Mapping[str, int], *, pairs: int) -> Usage:
        rows = dict.fromkeys(lengths, float(self.num_experts * self.slots_per_expert))
        every_expert = float(self.num_experts)  # every token has a part in every slot
        return Usage(rows, sum(rows.values()), every_expert, slots=self.slots_per_expert, pairs_per_group=None)

    def macs_per_token(self) -> int:
        """Logits, tokens mixed into slots and slots into tokens: three products of the same size."""
        return 3 * self.weight.numel()

    def notes(self) -> list[str]:
        return [
            "All experts work for all tokens here (soft routing). A token is shown at the expert that has the largest "
            "share of its output, and the gate is that share; no token is ever dropped. The knock-out silences all "
            "slots of an expert."
        ]


def unit_vectors(x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """x / sqrt(|x|^2 + 1e-6), in at least float32."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    squared_length = x.square().sum(-1, keepdim=True)
    return x * (squared_length + 1e-6).rsqrt()


class SoftDispatcher(Dispatcher):
    """Two batched matrix products per modality: tokens to slots, slots to tokens. Buffers are [E, sequences * P, D].

    Args:
        slot_logits: of every token for every slot.
        valid: which tokens are mixed.
        tokens: which sequences there are.
        num_experts: E.
    """

    def __init__(
        self, slot_logits: Float[Tensor, "T EP"], *, valid: Bool[Tensor, "T"], tokens: PackedTokens, num_experts: int
    ) -> None:
        self.tokens = tokens
        self.num_experts = num_experts
        self.slots_per_expert = slot_logits.shape[1] // num_experts
        # per segment [B, n, E * P]: the share of each token in each slot
        self.dispatch_weights: list[Float[Tensor, "B n EP"]] = []
        for logits, mask in zip(tokens.split(slot_logits), tokens.split(valid), strict=True):
            self.dispatch_weights.append(softmax_over_tokens(logits, mask))
        # [T, E * P] the share of each slot in each token
        self.combine_weights: Float[Tensor, "T EP"] = slot_logits.softmax(-1) * valid[:, None]
        num_sequences = sum(segment.size for segment in tokens.segments)
        self.num_rows = {BUFFERS: num_sequences * slot_logits.shape[1]}

    def dispatch(self, x: Float[Tensor, "T D"], layout: str) -> ExpertTokens:
        parts = []
        for mix, sequences in zip(self.dispatch_weights, self.tokens.split(x), strict=True):
            # [B, E * P, D] the mixture in each slot
            mix = mix.to(x.dtype).transpose(1, 2)
            slots = mix @ sequences

            # [E, B * P, D] the slots of each expert
            by_expert = slots.unflatten(1, (self.num_experts, -1)).transpose(0, 1)
            parts.append(by_expert.flatten(1, 2))
        return ExpertTokens(torch.cat(parts, dim=1))

    def combine(self, expert_tokens: ExpertTokens) -> Float[Tensor, "T D"]:
        rows = expert_tokens.tokens
        segments = self.tokens.segments
        of_segment = rows.split([segment.size * self.slots_per_expert for segment in segments], dim=1)
        parts = []
        for segment, share, own in zip(segments, self.tokens.split(self.combine_weights), of_segment, strict=True):
            # [B, E * P, D] the slots of each sequence
            by_sequence = own.unflatten(1, (segment.size, self.slots_per_expert)).transpose(0, 1)
            slots = by_sequence.flatten(1, 2)

            # [B * n, D] their mixture in each token
            mixed = share.to(rows.dtype) @ slots
            parts.append(mixed.flatten(0, 1))
        return torch.cat(parts)


def softmax_over_tokens(logits: Float[Tensor, "B n EP"], valid: Bool[Tensor, "B n"]) -> Float[Tensor, "B n EP"]:
    """Softmax over the real tokens of each sequence; over all where there is none, so that nothing is NaN."""
    is_empty = ~valid.any(-1, keepdim=True)
    usable = valid | is_empty
    logits = logits.masked_fill(~usable[..., None], -float("inf"))
    return logits.softmax(1)
