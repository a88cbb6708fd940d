"""An auxiliary loss, and the set of those that are active in a run."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from limoe.errors import ConfigError, require
from limoe.types import MODALITIES, RouterOutput


class AuxLoss:
    """One atom: a scalar to minimise, computed from what one router decided. Subclasses define `__call__`.

    Args:
        weight: relative weight in the mean over atoms; 0 = computed and logged, but adds nothing.
    """

    needs_noise = False  # True where the loss is undefined without router noise

    def __init__(self, *, weight: float = 1.0) -> None:
        require(weight >= 0, f"aux_loss.{type(self).__name__}.weight", ">= 0", weight)
        self.weight = weight

    def __call__(self, routed: RouterOutput) -> Float[Tensor, ""]:
        raise NotImplementedError


def modality_id(name: str) -> int:
    """0 for "image", 1 for "text".

    Raises:
        ConfigError: the name is neither.
    """
    require(name in MODALITIES, "aux_loss.<name>.modality", "'image' or 'text'", name)
    return MODALITIES.index(name)


class AuxTotal(NamedTuple):
    total: Float[Tensor, ""]
    raw: dict[str, Float[Tensor, ""]]  # reduced over layers, before any weight


class AuxLossSet:
    """total = weight * mean over atoms of (atom weight * factor * mean over layers of the atom's loss).

    The mean runs over the atoms whose own weight is not 0 (paper App. B.1, second-hand: the active losses are averaged
    and multiplied by 0.04). `factor[name]` is 1 unless a schedule changes it, and never changes the number averaged
    over, so a loss that fades in does not make the others jump.

    Args:
        atoms: losses by name; the names become `train/aux/<name>`.
        weight: what multiplies the reduced losses.
        over_losses: "mean" or "sum" over atoms.
        over_layers: "mean" or "sum" over sparse layers (the reference sums).
    """

    def __init__(
        self,
        atoms: Mapping[str, AuxLoss],
        *,
        weight: float = 0.04,
        over_losses: str = "mean",
        over_layers: str = "mean",
    ) -> None:
        require(weight >= 0, "aux_total.weight", ">= 0", weight)
        for key, value in (("over_losses", over_losses), ("over_layers", over_layers)):
            require(value in ("mean", "sum"), f"aux_total.{key}", "'mean' or 'sum'", value)
        self.atoms = dict(atoms)
        self.weight, self.over_losses, self.over_layers = weight, over_losses, over_layers
        self.factor = dict.fromkeys(self.atoms, 1.0)

    def set_factor(self, name: str, factor: float) -> None:
        """Multiply an atom's weight from now on.

        Raises:
            ConfigError: the run has no such atom.
        """
        if name not in self.factor:
            have = ", ".join(self.factor) or "none"
            raise ConfigError(f"aux_loss.{name} is scheduled but not active; active losses: {have}")
        self.factor[name] = factor

    def __call__(self, routing: Mapping[int, RouterOutput]) -> AuxTotal:
        """Raises ConfigError when there are losses but no sparse layer to compute them on."""
        if self.atoms and not routing:
            raise ConfigError(
                "aux_loss needs sparse layers, but model.moe_layers is empty; use aux_loss=none for a dense model"
            )
        raw = {}
        for name, atom in self.atoms.items():
            per_layer = torch.stack([_in_full_precision(atom, routed) for routed in routing.values()])
            raw[name] = per_layer.sum() if self.over_layers == "sum" else per_layer.mean()
        active = [name for name, atom in self.atoms.items() if atom.weight != 0]
        if not active:
            return AuxTotal(torch.zeros(()), raw)
        weighted = torch.stack([self.atoms[name].weight * self.factor[name] * raw[name] for name in active])
        return AuxTotal(self.weight * (weighted.sum() if self.over_losses == "sum" else weighted.mean()), raw)


def _in_full_precision(atom: AuxLoss, routed: RouterOutput) -> Float[Tensor, ""]:
    with torch.autocast(routed.logits.device.type, enabled=False):
        return atom(routed)
