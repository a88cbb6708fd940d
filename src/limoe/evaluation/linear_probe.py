"""Linear probe: multinomial logistic regression with an L2 penalty on frozen features, fitted by L-BFGS in float64.

Deterministic: weights start at zero, the split depends on the labels alone, and every step uses all features.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from limoe.evaluation.few_shot import standardised

_MAX_STEPS = 200
_SLOPE = 1e-5  # largest entry of the gradient at the end
_HELD_OUT = 5  # one in this many training features of a class is held out to select the strength


class Probing(NamedTuple):
    """Scores of the test features, the selected strength, and the held-out accuracy by strength."""

    scores: Float64[Tensor, "m classes"]
    strength: float
    tried: dict[float, float]


def linear_probe(
    train: Float64[Tensor, "n D"],
    labels: Int64[Tensor, "n"],
    test: Float64[Tensor, "m D"],
    *,
    num_classes: int,
    strengths: Sequence[float],
    progress: str | None = None,
) -> Probing:
    """Select the strength on a held-out fifth of `train` (ties: the largest), then fit on all of it.

    Scores are NaN if features are not finite (a diverged model).
    """
    if not (train.isfinite().all() and test.isfinite().all()):
        return Probing(torch.full((len(test), num_classes), torch.nan, dtype=torch.float64), math.nan, {})
    train, test = standardised(train, test)
    kept, held_out = split(labels)
    tried: dict[float, float] = {}
    probe = None
    for strength in tqdm(
        sorted(strengths, reverse=True), desc=progress, leave=False, delay=5, disable=None if progress else True
    ):
        probe = fit(train[kept], labels[kept], num_classes=num_classes, strength=strength, start=probe)
        guess = probe(train[held_out]).argmax(1)
        tried[strength] = (guess == labels[held_out]).double().mean().item()
    best = max(tried, key=lambda strength: (tried[strength], strength))
    probe = fit(train, labels, num_classes=num_classes, strength=best)
    return Probing(probe(test), best, tried)


def split(labels: Int64[Tensor, "n"]) -> tuple[Int64[Tensor, "kept"], Int64[Tensor, "held_out"]]:
    """Positions to fit on, and held-out ones: one in five of each class, none of a class with fewer than five."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    groups = [order[labels[order] == c] for c in labels.unique()]
    held_out = torch.cat([group[_HELD_OUT - 1 :: _HELD_OUT] for group in groups])
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[held_out] = False
    return kept.nonzero()[:, 0], held_out


def fit(
    features: Float64[Tensor, "n D"],
    labels: Int64[Tensor, "n"],
    *,
    num_classes: int,
    strength: float,
    start: nn.Linear | None = None,
) -> nn.Linear:
    """Minimise mean cross-entropy + strength / 2 |weights|^2; the bias is not penalised. `start`: initial values."""
    probe = nn.utils.skip_init(nn.Linear, features.shape[1], num_classes, dtype=torch.float64)
    for parameter in probe.parameters():
        nn.init.zeros_(parameter)
    if start is not None:
        probe.load_state_dict(start.state_dict())
    optimizer = torch.optim.LBFGS(
        probe.parameters(),
        max_iter=_MAX_STEPS,
        tolerance_grad=_SLOPE,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        penalty = strength / 2 * probe.weight.square().sum()
        value = F.cross_entropy(probe(features), labels) + penalty
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return probe.requires_grad_(False)
