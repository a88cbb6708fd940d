"""An auxiliary loss, and the set of those that are active in a run."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limoe.errors import LimoeError, require_argument
from limoe.parallel.collectives import all_reduce_sum
from limoe.types import MODALITIES, RouterOutput


class AuxLoss(ABC):
    """One aux loss term: a scalar to minimise, a function of one RouterOutput. Subclasses define `__call__`.

    Args:
        modality: tokens that the term reads, "image" or "text"; None = all.
        weight: relative weight in the mean over terms; 0 = computed and logged, but adds nothing.
        absolute_weight: if given, the loss times this is added as it is, outside the mean and `aux_total.weight`, and
            `weight` does not count. For losses whose papers name a weight of their own (Switch 0.01, ST-MoE 0.001).
    """

    needs_noise: bool = False  # of a class: True where the loss is undefined without router noise
    is_global: bool = False  # statistics over all ranks instead of this process; the set it belongs to decides

    def __init__(
        self, *, modality: str | None = None, weight: float = 1.0, absolute_weight: float | None = None
    ) -> None:
        require_argument(is_number(weight) and weight >= 0, "weight", "a number >= 0", weight)
        is_weight = absolute_weight is None or (is_number(absolute_weight) and absolute_weight >= 0)
        require_argument(is_weight, "absolute_weight", "a number >= 0 or null", absolute_weight)
        require_argument(modality is None or modality in MODALITIES, "modality", "'image' or 'text'", modality)
        self.modality = None if modality is None else MODALITIES.index(modality)
        self.weight = weight
        self.absolute_weight = absolute_weight

    @abstractmethod
    def __call__(self, routed: RouterOutput) -> Float[Tensor, ""]:
        """The loss of one sparse layer."""

    def normalised(self, value: Float[Tensor, ""], num_experts: int) -> Float[Tensor, ""] | None:
        """The loss of one layer on a scale where 1 is balanced; None where no such scale makes sense."""
        return None

    def token_mean(
        self, routed: RouterOutput, values: Float[Tensor, "T n"]
    ) -> tuple[Float[Tensor, "n"], Bool[Tensor, ""]]:
        """Mean over the real tokens of the term's modality, 0 without any, and whether there are any.

        Every term reads its tokens through this mean alone. So with `is_global` each rank has the same loss, and DDP's
        average of the gradients is the gradient of one process with the joint batch.
        """
        # [n + 1] sums of the values, and the number of tokens
        weight = routed.token_mask(self.modality)
        sums = torch.cat([weight @ values, weight.sum()[None]])
        if self.is_global:
            sums = all_reduce_sum(sums)
        count = sums[-1]
        mean = sums[:-1] / count.clamp_min(1)
        return mean, count > 0


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class AuxTotal(NamedTuple):
    """The losses of one batch, layers reduced. `total` is the sum of `weighted`."""

    total: Float[Tensor, ""]
    raw: dict[str, Float[Tensor, ""]]  # before any weight
    weighted: dict[str, Float[Tensor, ""]]  # what each active term adds to the training loss, with gradient
    normalised: dict[str, Float[Tensor, ""]]  # 1 = balanced; mean over layers, no gradient; only where defined


@dataclass
class AuxLossSet:
    """total = weight * mean over terms of (term weight * factor * mean over layers) + sum of the absolute ones.

    The mean runs over the terms whose own weight is not 0 (paper App. B.1, *unverified*: the active losses are averaged
    and multiplied by 0.04). A term with `absolute_weight` stays outside of it and adds absolute_weight * factor * mean
    over layers. `factor[name]` is 1 unless a schedule changes it, `boost[name]` is 1 unless an alarm raises it; both
    multiply, and neither changes the number averaged over, so a loss that fades in does not make the others jump.

    Args:
        terms: losses by name; the names become `train/aux/<name>`. Their `is_global` is set to what `stats_sync` says.
        weight: what multiplies the reduced losses.
        over_losses: "mean" or "sum" over terms.
        over_layers: "mean" or "sum" over sparse layers (the reference sums).
        stats_sync: "local", statistics over the tokens of a process, or "global", over those of all ranks, so that N
            ranks equal one process with the joint batch; costs one small all-reduce per term and layer, and one more in
            the backward.
    """

    terms: Mapping[str, AuxLoss]
    _: KW_ONLY
    weight: float = 0.04
    over_losses: str = "mean"
    over_layers: str = "mean"
    stats_sync: str = "local"

    def __post_init__(self) -> None:
        require_argument(is_number(self.weight) and self.weight >= 0, "weight", "a number >= 0", self.weight)
        for name in ("over_losses", "over_layers"):
            value = getattr(self, name)
            require_argument(value in ("mean", "sum"), name, "'mean' or 'sum'", value)
        is_known = self.stats_sync in ("local", "global")
        require_argument(is_known, "stats_sync", "'local' or 'global'", self.stats_sync)
        for term in self.terms.values():
            term.is_global = self.stats_sync == "global"
        self.factor = dict.fromkeys(self.terms, 1.0)
        self.boost = dict.fromkeys(self.terms, 1.0)

    def set_factor(self, name: str, factor: float) -> None:
        """Multiply a term's weight from now on. Raises `LimoeError` if the run has no such term."""
        if name not in self.factor:
            have = ", ".join(self.factor) or "none"
            raise LimoeError(f"the auxiliary loss {name} is scheduled but not active; active losses: {have}")
        self.factor[name] = factor

    def is_active(self, name: str) -> bool:
        """Whether the run has this term with a weight that is not 0."""
        term = self.terms.get(name)
        if term is None:
            return False
        weight = term.weight if term.absolute_weight is None else term.absolute_weight
        return weight != 0

    def __call__(self, routing: Mapping[int, RouterOutput]) -> AuxTotal:
        """Layers are those that the term's modality passes. Raises `LimoeError` if a loss has no sparse layer to be
        computed on.
        """
        if self.terms and not routing:
            raise LimoeError("auxiliary losses need sparse layers, and this model has none; leave them out")
        raw = {}
        normalised = {}
        for name, term in self.terms.items():
            # those that the term's tokens pass: in two towers a router has one modality
            layers = [routed for routed in routing.values() if term.modality in (None, *routed.modalities)]
            if not layers:
                raise LimoeError(f"the auxiliary loss {name}: no sparse layer sees its modality; leave it out")
            with torch.autocast(layers[0].logits.device.type, enabled=False):  # in full precision
                per_layer = torch.stack([term(routed) for routed in layers])
            raw[name] = per_layer.sum() if self.over_layers == "sum" else per_layer.mean()
            on_scale = _normalised(term, per_layer.detach(), layers)
            if on_scale is not None:
                normalised[name] = on_scale

        weighted = {name: self._scale(name) * raw[name] for name in self.terms if self.is_active(name)}
        total = torch.zeros(())
        if weighted:
            total = torch.stack(list(weighted.values())).sum()
        return AuxTotal(total, raw, weighted, normalised)

    def _scale(self, name: str) -> float:
        """What the reduced loss of an active term is multiplied by in the total."""
        term = self.terms[name]
        changes = self.factor[name] * self.boost[name]
        if term.absolute_weight is not None:
            return term.absolute_weight * changes
        averaged = [name for name, term in self.terms.items() if term.absolute_weight is None and self.is_active(name)]
        divisor = len(averaged) if self.over_losses == "mean" else 1
        return self.weight * term.weight * changes / divisor


def _normalised(
    term: AuxLoss, per_layer: Float[Tensor, "layers"], layers: Sequence[RouterOutput]
) -> Float[Tensor, ""] | None:
    """Mean over the layers for which the term defines a normalised value."""
    found = []
    for value, routed in zip(per_layer, layers, strict=True):
        on_scale = term.normalised(value, routed.num_experts)
        if on_scale is not None:
            found.append(on_scale)
    return torch.stack(found).mean() if found else None
