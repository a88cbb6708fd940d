"""Ridge regression against least squares on stacked equations, and the choice of shots."""

import numpy as np
import pytest
import torch

from limoe.evaluation.few_shot import ridge_scores, shots_of, standardised
from limoe.evaluation.metrics import ranks_of


def oracle_scores(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, *, num_classes: int, l2: float) -> np.ndarray:
    """The ridge problem as plain least squares: one more equation sqrt(l2) w = 0 per weight."""
    mean, std = x.mean(0), x.std(0) + 1e-5
    x, x_test = ((part - mean) / std for part in (x, x_test))
    x, x_test = (np.hstack([part, np.full((len(part), 1), 100.0)]) for part in (x, x_test))
    targets = np.where(y[:, None] == np.arange(num_classes), 1.0, -1.0)
    rows = np.vstack([x, np.sqrt(l2) * np.eye(x.shape[1])])
    weights = np.linalg.lstsq(rows, np.vstack([targets, np.zeros((x.shape[1], num_classes))]), rcond=None)[0]
    return x_test @ weights


@pytest.mark.parametrize(("images", "width"), [(40, 7), (12, 30), (8, 7)])
@pytest.mark.parametrize("l2", [2.0**10, 0.5])
def test_equals_stacked_least_squares(images: int, width: int, l2: float) -> None:
    rng = np.random.default_rng(images)
    x, x_test = rng.normal(size=(images, width)), rng.normal(size=(25, width))
    y, y_test = rng.integers(0, 4, size=images), rng.integers(0, 4, size=25)
    expected = oracle_scores(x, y, x_test, num_classes=4, l2=l2)
    tensors = [torch.from_numpy(part) for part in (x, y, x_test)]
    scores = ridge_scores(*tensors, num_classes=4, l2=l2)
    assert np.allclose(scores.numpy(), expected, rtol=1e-8, atol=1e-10)
    ranks = ranks_of(scores, torch.from_numpy(y_test))
    assert (ranks == 0).tolist() == (expected.argmax(1) == y_test).tolist()


def test_a_feature_that_never_changes_does_no_harm() -> None:
    x = torch.tensor([[1.0, 5.0], [3.0, 5.0]], dtype=torch.float64)
    train, test = standardised(x, x[:1])
    # mean 2, population deviation 1: -1 / (1 + 1e-5); the constant feature becomes 0
    assert train.tolist() == [[pytest.approx(-1 / 1.00001), 0], [pytest.approx(1 / 1.00001), 0]]
    assert test.tolist() == train[:1].tolist()


def test_equal_features_and_nan_are_never_right() -> None:
    same, labels = torch.ones(6, 3, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 2, 2])
    for features in (same, torch.full_like(same, torch.nan)):
        ranks = ranks_of(ridge_scores(features, labels, features, num_classes=3, l2=1024.0), labels)
        assert (ranks > 0).all()


def test_shots_per_class_nested_and_by_seed() -> None:
    labels = torch.tensor([i % 3 for i in range(60)] + [3, 3])  # class 3 has two images only
    few, many = (shots_of(labels, num_classes=4, shots=k, seed=1) for k in (5, 10))
    assert labels[few].bincount().tolist() == [5, 5, 5, 2] and labels[many].bincount().tolist() == [10, 10, 10, 2]
    assert set(few.tolist()) <= set(many.tolist()) and len(many.unique()) == 32
    other = shots_of(labels, num_classes=4, shots=5, seed=2)
    assert set(other.tolist()) != set(few.tolist())
