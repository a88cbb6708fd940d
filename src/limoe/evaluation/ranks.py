"""Who stands before the right answer: the one rule for ties that all evaluations share."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

TIE = 1e-6  # cosines closer than this are a tie: float32 features of one image in two batches differ by about 1e-7


def wrong_before(
    scores: Float[Tensor, "queries candidates"], right: Bool[Tensor, "queries candidates"], *, tie: float = TIE
) -> Int64[Tensor, "queries"]:
    """For each query: how many wrong candidates stand before its best right one; k or more means not found at k.

    Ties go against us, so that duplicates, collapsed features and NaN cannot look good. Meaningless where a query has
    no right candidate.
    """
    best = scores.masked_fill(~right, float("-inf")).amax(1, keepdim=True)
    before = ~(scores < best - tie) & ~right  # written so that NaN stands before everything
    return before.sum(1)


def ranked(
    scores: Float[Tensor, "n classes"], labels: Int64[Tensor, "n"]
) -> tuple[Int64[Tensor, "n"], Int64[Tensor, "n"]]:
    """(wrong classes before the right one, predicted class): the best wrong one, if any stands before the right one.

    A tie with the right class counts as wrong, so classes of the same name are never right.
    """
    right = F.one_hot(labels, scores.shape[1]).bool()
    ranks = wrong_before(scores, right)
    best_wrong = scores.masked_fill(right, float("-inf")).argmax(1)
    return ranks, torch.where(ranks == 0, labels, best_wrong)
