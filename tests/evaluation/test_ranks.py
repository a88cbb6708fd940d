"""The rule for ties, by hand."""

import pytest
import torch

from limoe.evaluation.metrics import ranks_of, wrong_before


def test_counts_wrong_ones_that_are_at_least_as_good() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.5, 0.1], [0.2, 0.3, 0.4, 0.1]])
    right = torch.tensor([[False, True, False, False], [True, False, False, True]])
    # Query 0: 0.9 and the equal 0.5 stand before. Query 1: its best right one is 0.2; 0.3 and 0.4 stand before.
    assert wrong_before(scores, right).tolist() == [2, 2]


@pytest.mark.parametrize(("gap", "before"), [(5e-7, 1), (2e-6, 0)])
def test_a_gap_below_1e_6_is_a_tie(gap: float, before: int) -> None:
    scores = torch.tensor([[0.5, 0.5 - gap]], dtype=torch.float64)
    assert wrong_before(scores, torch.tensor([[True, False]])).tolist() == [before]


def test_nan_stands_before_everything() -> None:
    scores = torch.tensor([[0.5, float("nan")], [float("nan"), 0.5]])
    assert wrong_before(scores, torch.tensor([[True, False], [True, False]])).tolist() == [1, 1]


def test_ranks_count_the_classes_before_the_right_one() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.7], [0.2, 0.6, 0.6]])
    assert ranks_of(scores, torch.tensor([0, 2])).tolist() == [0, 1]
