"""The fit is at the minimum, the split is fair, and the choice of the strength is what it says."""

import numpy as np
import pytest
import torch
from torch import Tensor

from limoe.evaluation.few_shot import standardised
from limoe.evaluation.linear_probe import fit, linear_probe, split


def clouds(images: int, *, classes: int = 4, width: int = 6, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Features of four classes around centres that are the same every time."""
    rng = np.random.default_rng(images)
    centres, labels = np.random.default_rng(0).normal(size=(classes, width)), np.arange(images) % classes
    return torch.from_numpy(centres[labels] + spread * rng.normal(size=(images, width))), torch.from_numpy(labels)


@pytest.mark.parametrize("strength", [1e-3, 0.1, 3.0])
def test_the_gradient_is_zero(strength: float) -> None:
    features, labels = clouds(50)
    weights, bias = (part.numpy() for part in fit(features, labels, num_classes=4, strength=strength).parameters())
    x, y = features.numpy(), np.eye(4)[labels.numpy()]
    logits = x @ weights.T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    # Convex: where the gradient vanishes there is the minimum.
    assert np.abs((p - y).T @ x / 50 + strength * weights).max() < 2e-5
    assert np.abs((p - y).mean(0)).max() < 2e-5


def test_another_start_gives_the_same_minimum() -> None:
    features, labels = clouds(50)
    near = fit(features, labels, num_classes=4, strength=1.0)
    for found, again in zip(
        fit(features, labels, num_classes=4, strength=0.1).parameters(),
        fit(features, labels, num_classes=4, strength=0.1, start=near).parameters(),
        strict=True,
    ):
        assert torch.allclose(found, again, atol=1e-3)


def test_one_in_five_of_each_class_is_held_out() -> None:
    labels = torch.tensor([0] * 10 + [1] * 5 + [2] * 4)
    kept, held_out = split(labels)
    assert labels[held_out].bincount(minlength=3).tolist() == [2, 1, 0]
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(19))


def test_the_best_strength_on_the_held_out_part_wins() -> None:
    features, labels = clouds(80, spread=1.5)
    test, _ = clouds(33, spread=1.5)
    found = linear_probe(features, labels, test, num_classes=4, strengths=[1e-3, 0.1, 1e4])
    best = max(found.tried.values())
    assert found.strength == max(s for s, accuracy in found.tried.items() if accuracy == best)
    train, scaled = standardised(features, test)
    expected = fit(train, labels, num_classes=4, strength=found.strength)(scaled)
    assert torch.equal(found.scores, expected)
    again = linear_probe(features, labels, test, num_classes=4, strengths=[1e-3, 0.1, 1e4])
    assert torch.equal(found.scores, again.scores) and found.tried == again.tried


def test_clear_clouds_are_told_apart_under_no_grad() -> None:
    features, labels = clouds(60, spread=0.05)
    with torch.no_grad():
        found = linear_probe(features, labels, features, num_classes=4, strengths=[1e-2])
    assert torch.equal(found.scores.argmax(1), labels) and found.tried == {1e-2: 1.0}


def test_features_of_a_diverged_model_give_nan() -> None:
    features, labels = clouds(20)
    found = linear_probe(features * torch.inf, labels, features, num_classes=4, strengths=[1.0])
    assert found.scores.isnan().all() and found.tried == {}
