"""Class embeddings, classification and chance, with numbers worked out by hand."""

import pytest
import torch
from torch import Tensor

from limoe.errors import ConfigError
from limoe.evaluation.zero_shot import chance_top_k, class_embeddings, classify, prompts_of

FEATURES = {
    "a cat": [3.0, 4.0],  # unit length: (0.6, 0.8)
    "no cat": [2.0, 0.0],  # (1, 0)
    "a dog": [0.0, 5.0],  # (0, 1)
    "no dog": [0.0, -1.0],  # (0, -1): cancels "a dog"
}


def encode(texts: list[str]) -> Tensor:
    return torch.tensor([FEATURES[text] for text in texts])


def test_prompts_go_class_by_class_and_braces_in_names_stay():
    assert prompts_of(["x", "{}"], ["a {}", "{}!"]) == ["a x", "x!", "a {}", "{}!"]


@pytest.mark.parametrize("templates", [[], ["a photo"], ["{} and {}"]])
def test_templates_without_exactly_one_place_for_the_name_are_refused(templates):
    with pytest.raises(ConfigError, match="templates must be"):
        prompts_of(["cat"], templates)


def test_class_embedding_is_the_mean_direction():
    found = class_embeddings(encode, class_names=["cat"], templates=["a {}", "no {}"], batch_size=8)
    # mean of (0.6, 0.8) and (1, 0) is (0.8, 0.4), of length sqrt(0.8) = 0.894427: (0.894427, 0.447214)
    assert torch.allclose(found, torch.tensor([[0.894427, 0.447214]]), atol=1e-6)


def test_prompts_that_cancel_give_zeros_and_no_nan():
    found = class_embeddings(encode, class_names=["dog"], templates=["a {}", "no {}"], batch_size=8)
    assert torch.equal(found, torch.zeros(1, 2))


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_batches_never_exceed_the_size_and_change_nothing(batch_size):
    sizes = []

    def counted(texts: list[str]) -> Tensor:
        sizes.append(len(texts))
        return encode(texts)

    settings = {"class_names": ["cat", "dog"], "templates": ["a {}", "no {}"]}
    found = class_embeddings(counted, **settings, batch_size=batch_size)
    assert torch.equal(found, class_embeddings(encode, **settings, batch_size=100))
    assert max(sizes) <= batch_size and sum(sizes) == 4


def test_logits_are_cosines_in_float32():
    images = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.bfloat16)
    classes = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    logits = classify(images, classes)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, torch.tensor([[0.6, 0.0], [0.7, 0.5]]))


@pytest.mark.parametrize(("classes", "k", "chance"), [(98, 1, 1 / 98), (98, 5, 5 / 98), (3, 5, 1.0)])
def test_chance(classes, k, chance):
    assert chance_top_k(classes, k=k) == chance
