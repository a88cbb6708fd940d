"""Recall against a float64 oracle that sorts, chance against all orders of a small set, and the rules for ties."""

from itertools import permutations
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from limoe.errors import DataError
from limoe.evaluation.retrieval import RetrievalRecall, chance_recall, retrieval_chance


def retrieval_recall(
    images: Tensor,
    texts: Tensor,
    positives: list[tuple[int, int]],
    *,
    ks: tuple[Any, ...] = (1, 5, 10),
    chunk: int = 1024,
) -> dict[str, float]:
    metric = RetrievalRecall(ks=ks, chunk=chunk)
    metric.update(images, texts, positives)
    return metric.compute()


def oracle(
    queries: list[list[float]], candidates: list[list[float]], positives: list[tuple[int, int]], *, k: int
) -> float:
    """Sort by similarity, wrong before right among equals, and look for a right one among the first k."""
    found = []
    for q, query in enumerate(queries):
        right = {c for query_id, c in positives if query_id == q}
        if right:
            scores = [
                (-sum(a * b for a, b in zip(query, c, strict=True)), i in right, i) for i, c in enumerate(candidates)
            ]
            found.append(any(i in right for _, _, i in sorted(scores)[:k]))
    return sum(found) / len(found)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_equals_the_oracle_with_ties_and_several_positives(seed: int, chunk: int) -> None:
    random = Random(seed)
    images, texts = ([[random.randint(-2, 2) for _ in range(3)] for _ in range(n)] for n in (9, 13))
    positives = [(random.randrange(9), random.randrange(13)) for _ in range(14)]  # repeats, and queries without any
    found = retrieval_recall(
        torch.tensor(images, dtype=torch.float32), torch.tensor(texts, dtype=torch.float32), positives, chunk=chunk
    )
    turned = [(text, image) for image, text in positives]
    for k in (1, 5, 10):
        assert found[f"i2t_r{k}"] == pytest.approx(oracle(images, texts, positives, k=k))
        assert found[f"t2i_r{k}"] == pytest.approx(oracle(texts, images, turned, k=k))


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_oracle_on_random_features_with_duplicates(seed: int) -> None:
    random = Random(seed)
    images, texts = ([[random.gauss(0, 1) for _ in range(8)] for _ in range(n)] for n in (40, 60))
    images[7], texts[9], texts[10] = images[3], texts[2], texts[2]
    positives = [(i % 40, t) for i, t in zip(range(100), range(60), strict=False)] + [(5, 1), (6, 1), (7, 1)]
    found = retrieval_recall(torch.tensor(images), torch.tensor(texts), positives, chunk=16)
    turned = [(text, image) for image, text in positives]
    for k in (1, 5, 10):
        assert found[f"i2t_r{k}"] == pytest.approx(oracle(images, texts, positives, k=k))
        assert found[f"t2i_r{k}"] == pytest.approx(oracle(texts, images, turned, k=k))


def test_by_hand() -> None:
    images = torch.eye(3)
    texts = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 2.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]), dim=-1)
    positives = [(0, 0), (1, 1), (1, 3), (2, 3)]
    found = retrieval_recall(images, texts, positives, ks=(1, 2))
    # Image 1 prefers text 2 (0.71, wrong) to text 1 (0.45, right): found at 2. Images 0 and 2 at 1.
    # Text 2 has no image. Text 1 prefers image 2 (wrong): found at 2. Texts 0 and 3 at 1.
    assert found == pytest.approx({"i2t_r1": 2 / 3, "i2t_r2": 1.0, "t2i_r1": 2 / 3, "t2i_r2": 1.0})


def test_rounding_noise_does_not_break_a_tie() -> None:
    images = torch.tensor([[1.0, 0.0]])
    texts = torch.tensor([[1.0, 0.0], [1.0 - 2e-7, 0.0], [0.9, 0.0]])
    assert retrieval_recall(images, texts, [(0, 0)], ks=(1, 2)) == {
        "i2t_r1": 0.0,
        "i2t_r2": 1.0,
        "t2i_r1": 1.0,
        "t2i_r2": 1.0,
    }


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_features_that_are_all_the_same_or_nan_find_nothing(value: float) -> None:
    features = torch.full((12, 4), value)
    assert set(retrieval_recall(features, features, [(i, i) for i in range(12)]).values()) == {0.0}


@pytest.mark.parametrize(
    ("num_positives", "k", "chance"),
    [
        ([2], 1, 1 / 2),
        ([2], 2, 5 / 6),  # 1 - C(2,2)/C(4,2) = 1 - 1/6
        ([1, 2], 2, 2 / 3),  # mean of 1/2 and 5/6
        ([1], 9, 1.0),
    ],
)
def test_chance_by_hand(num_positives: list[int], k: int, chance: float) -> None:
    assert chance_recall(num_positives, num_candidates=4, k=k) == pytest.approx(chance)


@pytest.mark.parametrize(("positives", "k"), [(1, 1), (2, 2), (3, 2)])
def test_chance_is_the_mean_over_all_orders(positives: int, k: int) -> None:
    orders = list(permutations(range(5)))
    expected = sum(any(c < positives for c in order[:k]) for order in orders) / len(orders)
    assert chance_recall([positives], num_candidates=5, k=k) == pytest.approx(expected)


def test_chance_of_a_large_set_is_exact() -> None:
    assert chance_recall([1], num_candidates=1_000_000, k=10) == 1e-5


def test_chance_has_the_keys_of_recall() -> None:
    positives = [(0, 0), (0, 1), (1, 2), (1, 2)]
    chance = retrieval_chance(positives, num_images=2, num_texts=3, ks=(1,))
    # Image 0 has 2 of 3 texts, image 1 has 1 of 3: mean 1/2. Each text has 1 of 2 images.
    assert chance == pytest.approx({"i2t_r1": 1 / 2, "t2i_r1": 1 / 2})
    assert retrieval_recall(torch.eye(3)[:2], torch.eye(3), positives, ks=(1,)).keys() == chance.keys()


@pytest.mark.parametrize("positives", [[], [(3, 0)], [(0, 3)], [(-1, 0)]])
def test_pairs_outside_the_set_are_refused(positives: list[tuple[int, int]]) -> None:
    with pytest.raises(DataError, match="retrieval positives"):
        retrieval_recall(torch.eye(3), torch.eye(3), positives)
