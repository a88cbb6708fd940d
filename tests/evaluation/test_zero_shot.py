"""Class embeddings, classification and chance, with numbers worked out by hand."""

import hashlib
from random import Random

import pytest
import torch
from torch import Tensor

from limoe.evaluation.metrics import Classification
from limoe.evaluation.zero_shot import (
    chance_top_k,
    class_embeddings,
    classify,
    prompts_of,
    prompts_sha256,
)

FEATURES = {
    "a cat": [3.0, 4.0],  # unit length: (0.6, 0.8)
    "no cat": [2.0, 0.0],  # (1, 0)
    "a dog": [0.0, 5.0],  # (0, 1)
    "no dog": [0.0, -1.0],  # (0, -1): cancels "a dog"
}


def encode(texts: list[str]) -> Tensor:
    return torch.tensor([FEATURES[text] for text in texts])


def test_prompts_go_class_by_class_and_braces_in_names_stay() -> None:
    assert prompts_of(["x", "{}"], ["a {}", "{}!"]) == ["a x", "x!", "a {}", "{}!"]


@pytest.mark.parametrize("templates", [[], ["a photo"], ["{} and {}"]])
def test_templates_without_exactly_one_place_for_the_name_are_refused(templates: list[str]) -> None:
    with pytest.raises(ValueError, match="templates must be"):
        prompts_of(["cat"], templates)


def test_class_embedding_is_the_mean_direction() -> None:
    found = class_embeddings(encode, class_names=["cat"], templates=["a {}", "no {}"])
    # mean of (0.6, 0.8) and (1, 0) is (0.8, 0.4), of length sqrt(0.8) = 0.894427: (0.894427, 0.447214)
    assert torch.allclose(found, torch.tensor([[0.894427, 0.447214]]), atol=1e-6)


def test_prompts_that_cancel_give_zeros_and_no_nan() -> None:
    found = class_embeddings(encode, class_names=["dog"], templates=["a {}", "no {}"])
    assert torch.equal(found, torch.zeros(1, 2))


def test_the_hash_is_that_of_the_texts_in_order() -> None:
    found = prompts_sha256(["cat", "dog"], ["a {}"])
    assert found == hashlib.sha256(b'[["cat", "dog"], ["a {}"]]').hexdigest()
    assert found != prompts_sha256(["dog", "cat"], ["a {}"])
    assert prompts_sha256(("cat", "dog"), ("a {}",)) == found


def zero_shot(images: Tensor, classes: Tensor, labels: Tensor, *, chunk: int = 1024) -> Classification:
    """Counted in parts, as the evaluation of a task does it."""
    metric = Classification("zeroshot", ks=(1, 5))
    for part, its_labels in zip(images.split(chunk), labels.split(chunk), strict=True):
        metric.update(classify(part, classes), its_labels)
    return metric


def oracle_rank(scores: list[float], label: int) -> int:
    """Wrong classes at least as good as the right one, in float64."""
    return sum(score >= scores[label] for c, score in enumerate(scores) if c != label)


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("seed", range(5))
def test_ranks_equal_a_float64_oracle_with_classes_of_one_name(seed: int, chunk: int) -> None:
    random = Random(seed)
    images = [[random.gauss(0, 1) for _ in range(6)] for _ in range(30)]
    classes = [[random.gauss(0, 1) for _ in range(6)] for _ in range(8)]
    classes[3] = classes[5]  # one name for two classes
    labels = [random.randrange(8) for _ in images]
    scores = [[sum(a * b for a, b in zip(image, c, strict=True)) for c in classes] for image in images]
    metric = zero_shot(torch.tensor(images), torch.tensor(classes), torch.tensor(labels), chunk=chunk)
    expected = [oracle_rank(row, label) for row, label in zip(scores, labels, strict=True)]
    assert metric.entries("ranks").tolist() == expected
    by_class = [
        [rank == 0 for rank, its in zip(expected, labels, strict=True) if its == c] for c in sorted(set(labels))
    ]
    assert metric.compute() == pytest.approx(
        {
            "zeroshot_top1": sum(rank < 1 for rank in expected) / 30,
            "zeroshot_top5": sum(rank < 5 for rank in expected) / 30,
            "zeroshot_class_mean": sum(sum(hits) / len(hits) for hits in by_class) / len(by_class),
        }
    )


def test_ties_and_nan_count_against_us() -> None:
    metric = zero_shot(torch.ones(2, 3), torch.ones(4, 3), torch.tensor([0, 3]))
    assert metric.entries("ranks").tolist() == [3, 3]
    metric = zero_shot(torch.full((1, 3), torch.nan), torch.ones(4, 3), torch.tensor([0]))
    assert metric.entries("ranks").tolist() == [3]


def test_logits_are_cosines_in_float32() -> None:
    images = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.bfloat16)
    classes = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    logits = classify(images, classes)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, torch.tensor([[0.6, 0.0], [0.7, 0.5]]))


@pytest.mark.parametrize(("classes", "k", "chance"), [(98, 1, 1 / 98), (98, 5, 5 / 98), (3, 5, 1.0)])
def test_chance(classes: int, k: int, chance: float) -> None:
    assert chance_top_k(classes, k=k) == chance
