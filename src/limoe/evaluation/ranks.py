"""Ranks of the positives among scored candidates, with one rule for ties."""

from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

TIE = 1e-6  # smaller differences of cosines are ties: float32 features of one image in two batches differ by 1e-7


def wrong_before(
    scores: Float[Tensor, "queries candidates"], right: Bool[Tensor, "queries candidates"], *, tie: float = TIE
) -> Int64[Tensor, "queries"]:
    """Number of negatives ranked before the best positive (`right`) of each query; below k means found at k.

    Ties rank the negative first, so that duplicates, collapsed features and NaN do not count as hits. Undefined for a
    query without a positive.
    """
    best = scores.masked_fill(~right, float("-inf")).amax(1, keepdim=True)
    before = ~(scores < best - tie) & ~right  # negated, so that NaN ranks before everything
    return before.sum(1)


def ranks_of(scores: Float[Tensor, "n classes"], labels: Int64[Tensor, "n"]) -> Int64[Tensor, "n"]:
    """Wrong classes ranked before the true one. A tie is an error, so classes of one name are never correct."""
    return wrong_before(scores, F.one_hot(labels, scores.shape[1]).bool())
