"""Image-text retrieval from features: recall@k both ways, several positives per query.

Rules where public code differs: a query is found at k if any of its positives is among the first k; a negative as
similar as the best positive is ranked before it, so that duplicates and collapsed features do not count as hits;
queries without a positive are left out.
"""

from collections import Counter
from collections.abc import Sequence
from math import comb

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from limoe.errors import DataError
from limoe.evaluation.metrics import Measure, TaskMetric, wrong_before

KS = (1, 5, 10)


class RetrievalRecall(TaskMetric):
    """`i2t_r<k>` and `t2i_r<k>`: the share of queries with a positive among the first k candidates.

    torchmetrics calls this RetrievalHitRate (its RetrievalRecall is the share of a query's positives). It leaves ties
    to the sort and keeps a score for every pair of query and candidate; here ties are errors and a query has one entry:
    the negatives before its best positive. Memory: `chunk` queries times all candidates.
    """

    def __init__(self, *, ks: Sequence[int] = KS, chunk: int = 1024) -> None:
        super().__init__("i2t", "t2i")
        self.ks = ks
        self.chunk = chunk

    def update(
        self,
        image_features: Float[Tensor, "images d_out"],
        text_features: Float[Tensor, "texts d_out"],
        positives: Sequence[tuple[int, int]],
        *,
        images: slice = slice(None),
        texts: slice = slice(None),
    ) -> None:
        """Add queries: features are of unit length, of all candidates; `images` and `texts` are the queries among them.

        `positives` are (image, text) pairs. Raises `DataError` where they point outside the features.
        """
        pairs = _checked(positives, num_images=len(image_features), num_texts=len(text_features))
        image_features, text_features = image_features.float(), text_features.float()
        self.add(
            i2t=_ranks(image_features, text_features, pairs, queries=images, chunk=self.chunk),
            t2i=_ranks(text_features, image_features, pairs.flip(1), queries=texts, chunk=self.chunk),
        )

    def measures(self) -> dict[str, Measure]:
        return {f"{way}_r{k}": Measure((self.entries(way) < k).double()) for way in ("i2t", "t2i") for k in self.ks}


def retrieval_chance(
    positives: Sequence[tuple[int, int]], *, num_images: int, num_texts: int, ks: Sequence[int] = KS
) -> dict[str, float]:
    """Expected recall of a random order of the candidates, as `i2t_r<k>` and `t2i_r<k>`."""
    pairs = _checked(positives, num_images=num_images, num_texts=num_texts).tolist()
    per_image = list(Counter(image for image, _ in pairs).values())
    per_text = list(Counter(text for _, text in pairs).values())
    return {f"i2t_r{k}": chance_recall(per_image, num_candidates=num_texts, k=k) for k in ks} | {
        f"t2i_r{k}": chance_recall(per_text, num_candidates=num_images, k=k) for k in ks
    }


def chance_recall(num_positives: Sequence[int], *, num_candidates: int, k: int) -> float:
    """Mean over queries of 1 - C(N-p, k) / C(N, k): the chance that k of N candidates hold one of p positives."""
    k = min(k, num_candidates)
    total = comb(num_candidates, k)
    found = {p: (total - comb(num_candidates - p, k)) / total for p in set(num_positives)}
    return sum(found[p] for p in num_positives) / len(num_positives)


def _checked(positives: Sequence[tuple[int, int]], *, num_images: int, num_texts: int) -> Int64[Tensor, "pairs 2"]:
    """The distinct pairs as a tensor. Raises `DataError` if there is none or an index is out of range."""
    if len(positives) == 0:
        raise DataError("retrieval positives: there is no (image, text) pair, give at least one")
    for image, text in positives:
        if not (0 <= image < num_images and 0 <= text < num_texts):
            raise DataError(
                f"retrieval positives: ({image}, {text}) points outside {num_images} images, {num_texts} texts"
            )
    return torch.tensor(sorted(set(positives)))


def _ranks(
    features: Float[Tensor, "all d_out"],
    candidates: Float[Tensor, "candidates d_out"],
    pairs: Int64[Tensor, "pairs 2"],
    *,
    queries: slice,
    chunk: int,
) -> Int64[Tensor, "counted"]:
    pairs = pairs.to(features.device)
    first, last, _ = queries.indices(len(features))
    ranks = [pairs.new_zeros(0)]  # this process may have no query
    for start in range(first, last, chunk):
        stop = min(start + chunk, last)
        similarity = features[start:stop] @ candidates.T
        here = pairs[(pairs[:, 0] >= start) & (pairs[:, 0] < stop)]
        right = torch.zeros_like(similarity, dtype=torch.bool)
        right[here[:, 0] - start, here[:, 1]] = True
        ranks.append(wrong_before(similarity, right)[right.any(1)])
    return torch.cat(ranks)
