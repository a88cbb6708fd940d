"""The contract of a router, the capacity of experts, and the two functions that every learned router uses."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from limoe.errors import require_argument
from limoe.routing.dispatch import expert_capacity
from limoe.routing.priority import Priority
from limoe.types import Dispatcher, PackedTokens, RouterOutput


class Groups(NamedTuple):
    """Routing groups: token t is in group `of_token[t]` of `total`; each has `pairs` pairs, the last perhaps fewer."""

    of_token: Int[Tensor, "T"]
    total: int
    pairs: int
    capacity: int | None  # slots per expert and group; None = no limit


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How many slots an expert has for the tokens of a routing group, and which pairs form a group.

    Args:
        capacity_factor: slots = factor * fair share, per expert and group; None = no limit.
        eval_capacity_factor: the same in evaluation. No limit by default, so a sample never depends on its batch.
        capacity_rounding: "ceil", or "round" (half to even; at least one slot).
        capacity_multiple_of: slots are then rounded up to a multiple of this (vmoe: 4; its expert choice: 1).
        pairs_per_group: pairs that share slots; None = all of the process. Tokens per group follow from the batch.
    """

    capacity_factor: float | None
    eval_capacity_factor: float | None
    capacity_rounding: str
    capacity_multiple_of: int
    pairs_per_group: int | None

    def __post_init__(self) -> None:
        for name in ("capacity_factor", "eval_capacity_factor"):
            factor = getattr(self, name)
            require_argument(factor is None or factor > 0, name, "> 0 or null", factor)
        is_known = self.capacity_rounding in ("ceil", "round")
        require_argument(is_known, "capacity_rounding", "'ceil' or 'round'", self.capacity_rounding)
        require_argument(self.capacity_multiple_of >= 1, "capacity_multiple_of", ">= 1", self.capacity_multiple_of)
        is_size = self.pairs_per_group is None or self.pairs_per_group >= 1
        require_argument(is_size, "pairs_per_group", ">= 1 or null", self.pairs_per_group)

    def group_size(self, num_pairs: int) -> int:
        """Pairs of a full group in a batch of `num_pairs`."""
        wanted = num_pairs if self.pairs_per_group is None else self.pairs_per_group
        return max(1, min(wanted, num_pairs))

    def slots(self, tokens: int, *, num_experts: int, k: int = 1, training: bool) -> int | None:
        """Slots of each expert in a group of `tokens` with `k` assignments each; None = no limit.

        Never more than `tokens`: an expert takes a token once.
        """
        factor = self.capacity_factor if training else self.eval_capacity_factor
        if factor is None:
            return None
        slots = expert_capacity(
            tokens * k,
            num_experts=num_experts,
            capacity_factor=factor,
            rounding=self.capacity_rounding,
            multiple_of=self.capacity_multiple_of,
        )
        return min(slots, tokens)

    def groups(self, tokens: PackedTokens, *, num_experts: int, k: int = 1, training: bool) -> Groups:
        """Groups and slots of a batch in which each token has `k` assignments."""
        pairs = self.group_size(tokens.num_pairs)
        capacity = None
        if tokens.num_pairs > 0:
            per_group = pairs * tokens.tokens_per_pair
            capacity = self.slots(per_group, num_experts=num_experts, k=k, training=training)
        total = -(-tokens.num_pairs // pairs)  # rounded up
        return Groups(tokens.pair // pairs, total=total, pairs=pairs, capacity=capacity)


class Usage(NamedTuple):
    """What one sparse layer computes in training, by arithmetic (for FLOPs, memory and `limoe info`).

    Args:
        rows: by modality, rows per pair that all experts compute together if no token is dropped.
        computed_rows: rows per pair in buffers, empty slots included; the sum of `rows` where slots have no limit.
        experts_per_token: experts that compute a token, on average if none is dropped.
        slots: slots of one expert in a group; None = no limit.
        pairs_per_group: pairs of a group; None where no pairs share slots.
        effective_capacity_factor: slots over the fair share, after rounding; None where there is no capacity factor.
    """

    rows: dict[str, float]
    computed_rows: float
    experts_per_token: float
    slots: int | None
    pairs_per_group: int | None
    effective_capacity_factor: float | None = None


class Router(nn.Module, ABC):
    """The contract of a router. A new kind derives from this class and is complete with its abstract methods.

    `limoe info`, the atlas, the checks of a config, callbacks and evaluation read the class attributes and methods
    below, and never ask for the class of a router.

    Args:
        num_experts: E.
        count_pad: route padding like text, as the reference does, instead of leaving it out.

    Raises:
        ArgumentError: `num_experts` is not positive.
    """

    # False: no parameter, so losses on the router have nothing to move.
    learns = True
    # False: no K-th largest logit decides, so losses that need noise are undefined.
    has_threshold = True
    # True: each token chooses its experts, and `expert_index` holds all that compute it.
    tokens_choose = True

    # Slots and groups; None: no capacity factor limits the slots.
    capacity: Capacity | None = None
    # Which tokens get a slot first; None: slots are not assigned by priority. In evaluation None = as in training.
    priority: Priority | None = None
    eval_priority: Priority | None = None

    def __init__(self, *, num_experts: int, count_pad: bool = False) -> None:
        super().__init__()
        require_argument(num_experts >= 1, "num_experts", ">= 1", num_experts)
        self.num_experts = num_experts
        self.count_pad = count_pad

    @abstractmethod
    def forward(self, x: Float[Tensor, "T D"], tokens: PackedTokens) -> tuple[Dispatcher, RouterOutput]:
        """A dispatcher for these tokens, and the decisions about them as data."""

    @property
    @abstractmethod
    def depends_on_batch(self) -> bool:
        """Whether, in evaluation, the other samples of a batch change what happens to a sample."""

    @abstractmethod
    def usage(self, lengths: Mapping[str, int], *, pairs: int) -> Usage:
        """The usage in training, with `pairs` pairs per batch and sequences of `lengths` tokens by modality."""

    def macs_per_token(self) -> int:
        """Multiply-accumulates of the router itself per token: by default each weight matrix is applied once."""
        return sum(p.numel() for p in self.parameters(recurse=False) if p.ndim > 1)

    def drops_by_position(self, priority: Priority | None = None) -> bool:
        """Whether, in training, the positions of tokens alone decide which of those that chose an expert it drops.

        Dropped tokens then tell where in its group a pair stands. `priority`: None = that of the router.
        """
        return False

    def notes(self) -> list[str]:
        """Sentences that a reader of this run's routing atlas must know; empty = nothing to add."""
        return []

    def counted(self, tokens: PackedTokens) -> Bool[Tensor, "T"]:
        """Which tokens take part."""
        return torch.ones_like(tokens.valid) if self.count_pad else tokens.valid


def routers_of(model: nn.Module) -> list[Router]:
    """The routers of all sparse layers."""
    return [module for module in model.modules() if isinstance(module, Router)]


def capacity_usage(
    capacity: Capacity, lengths: Mapping[str, int], *, num_experts: int, k: int, pairs: int, filled: bool = False
) -> Usage:
    """Usage of a router with a capacity and `k` assignments per token.

    `filled`: experts fill every slot (expert choice), so the slots say how many experts compute a token.
    """
    group = capacity.group_size(pairs)
    tokens = group * sum(lengths.values())
    slots = capacity.slots(tokens, num_experts=num_experts, k=k, training=True)
    experts_per_token: float = k
    if filled:
        experts_per_token = num_experts if slots is None else num_experts * slots / tokens
    rows = {name: experts_per_token * length for name, length in lengths.items()}
    return Usage(
        rows=rows,
        computed_rows=sum(rows.values()) if slots is None else num_experts * slots / group,
        experts_per_token=experts_per_token,
        slots=slots,
        pairs_per_group=group,
        effective_capacity_factor=None if slots is None else num_experts * slots / (tokens * k),
    )


def float32_linear(x: Float[Tensor, "T D"], weight: Float[Tensor, "F D"]) -> Float[Tensor, "T F"]:
    """x W^T in float32 (float64 for float64 input), whatever the precision of the run."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.to(dtype), weight.to(dtype))


def with_noise(logits: Float[Tensor, "..."], std: float) -> Float[Tensor, "..."]:
    """Logits plus Normal(0, std^2); the logits themselves where std is 0."""
    if std > 0:
        return logits + std * torch.randn_like(logits)
    return logits
