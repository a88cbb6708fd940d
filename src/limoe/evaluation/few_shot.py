"""Few-shot classification: closed-form ridge regression on a few frozen features per class.

As in the reference's evaluation of image models: features before the head, standardised with the statistics of the
few training features, a large constant feature as bias, targets -1 and 1, one L2 strength for all. That LIMoE's numbers
were computed this way is *unverified*.
"""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from torch.nn import functional as F

BIAS = 100.0  # constant feature; large, so that the penalty hardly affects its weight
_STD_EPS = 1e-5


def standardised(
    train: Float64[Tensor, "n D"], test: Float64[Tensor, "m D"]
) -> tuple[Float64[Tensor, "n D"], Float64[Tensor, "m D"]]:
    """Standardise both with the mean and the population standard deviation (plus 1e-5) of `train`."""
    mean = train.mean(0)
    std = train.std(0, correction=0) + _STD_EPS
    return (train - mean) / std, (test - mean) / std


def ridge_scores(
    train: Float64[Tensor, "n D"],
    labels: Int64[Tensor, "n"],
    test: Float64[Tensor, "m D"],
    *,
    num_classes: int,
    l2: float,
) -> Float64[Tensor, "m classes"]:
    """Scores of `test` under argmin_W |XW - Y|^2 + l2 |W|^2, solved over the smaller of features and images."""
    x, x_test = (F.pad(features, (0, 1), value=BIAS) for features in standardised(train, test))
    y = 2.0 * F.one_hot(labels, num_classes).double() - 1.0
    if len(x) > x.shape[1]:
        return x_test @ _solve(x.T @ x, x.T @ y, l2=l2)
    return x_test @ (x.T @ _solve(x @ x.T, y, l2=l2))


def shots_of(labels: Int64[Tensor, "n"], *, num_classes: int, shots: int, seed: int) -> Int64[Tensor, "picked"]:
    """Positions of `shots` training images per class (all of a smaller class), drawn by seed.

    The picks of fewer shots are the first of those of more shots.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    picked = [order[labels[order] == c][:shots] for c in range(num_classes)]
    return torch.cat(picked)


def _solve(gram: Float64[Tensor, "k k"], right: Float64[Tensor, "k c"], *, l2: float) -> Float64[Tensor, "k c"]:
    """(gram + l2 I)^-1 right; NaN if features are not finite (a diverged model)."""
    if not gram.isfinite().all():
        return torch.full_like(right, torch.nan)
    damped = gram + l2 * torch.eye(len(gram), dtype=gram.dtype)
    return torch.cholesky_solve(right, torch.linalg.cholesky(damped))
