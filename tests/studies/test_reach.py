"""Compute to reach the baseline's value, on curves worked out by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from limoe.runs.folder import Curve
from limoe.studies.cost import Cost
from limoe.studies.reach import reach_sheet, steps_to
from limoe.studies.results import Row
from limoe.studies.study import Metric, Study
from limoe.studies.trial import State, Trial

TOP1 = "val/x/zeroshot_top1"
STUDY = Study("s", "?", (), {"sparse": (), "dense": ()}, (0, 1), (Metric(TOP1, "accuracy"),), baseline="dense")
COSTS = [Cost("dense", 1, 1, 1e9, 100, 40, None), Cost("sparse", 1, 1, 2e9, 100, 40, None)]


def row(variant: str, seed: int, curve: Curve, status: str = "done") -> Row:
    return Row(Trial(variant, seed, (), "", Path("x")), State(status), curves={TOP1: curve})


def texts(rows: list[Row], study: Study = STUDY, costs: list[Cost] = COSTS) -> list[list[str]]:
    return [[cell.text for cell in line] for line in reach_sheet(study, rows, costs).rows]


def test_first_crossing() -> None:
    """0.3 lies halfway between 0.2 at step 9 and 0.4 at step 19: step 14, which is the 15th."""
    curve = {19: 0.4, 9: 0.2, 29: 0.1, 39: 0.5}
    assert steps_to(0.3, curve, higher=True) == pytest.approx(15)
    assert steps_to(0.4, curve, higher=True) == 20
    assert steps_to(0.1, curve, higher=True) == 10  # the first point is beyond it
    assert steps_to(0.6, curve, higher=True) is None
    # downwards from 0.4 at step 19 to 0.1 at step 29: 0.15 after 25/30 of ten steps
    assert steps_to(0.15, curve, higher=False) == pytest.approx(20 + 10 * 25 / 30)


ROWS = [
    row("dense", 0, {9: 0.1, 19: 0.2, 29: 0.3, 39: 0.4}),  # reaches its 0.4 after 40 steps: 4 TFLOP
    row("dense", 1, {9: 0.1, 19: 0.4, 29: 0.5, 39: 0.4}),  # reaches its 0.4 after 20 steps already: 2 TFLOP
    row("sparse", 0, {9: 0.2, 19: 0.6, 29: 0.6}),  # 0.4 after 15 steps: 15 x 200 GFLOP = 3 TFLOP, 0.75 of 4
    row("sparse", 1, {9: 0.4}),  # after 10: 2 TFLOP, 1.0 of 2
]


def test_means_over_seeds_paired_with_the_baseline() -> None:
    table = reach_sheet(STUDY, ROWS, COSTS)
    assert table.columns == ("variant", "training steps", "TFLOP", "relative to dense")
    # dense: (40 + 20) / 2 steps, (4 + 2) / 2 TFLOP; sparse: 12.5 steps, 2.5 TFLOP, (0.75 + 1.0) / 2
    assert texts(ROWS) == [["dense", "30", "3", "1.00 ×"], ["sparse", "12", "2.5", "0.88 ×"]]
    assert [cell.number for cell in table.rows[1][1:]] == pytest.approx([12.5, 2.5, 0.875])


def test_a_seed_of_its_own_goes_by_the_baselines_mean() -> None:
    """The mean of 0.4 and 0.2 is 0.3, after 10 steps: 2 TFLOP; the baseline's FLOPs are (4 + 2) / 2 = 3."""
    rows = [ROWS[0], row("dense", 1, {9: 0.1, 19: 0.2}), row("sparse", 7, {9: 0.31})]
    assert texts(rows)[1] == ["sparse", "10", "2", "0.67 ×"]


def test_what_is_not_reached_is_said() -> None:
    rows = [*ROWS[:3], row("sparse", 1, {9: 0.3, 19: float("nan")})]
    assert texts(rows)[1] == ["sparse", "not reached (1 of 2 seeds)", "–", "–"]
    assert texts([*ROWS[:2], row("sparse", 0, {9: 0.9}, "failed")])[1] == ["sparse", "–", "–", "–"]


def test_without_costs_only_steps_and_without_a_direction_nothing() -> None:
    assert texts(ROWS, costs=[]) == [["dense", "30", "–", "–"], ["sparse", "12", "–", "–"]]
    assert texts(ROWS, costs=COSTS[1:])[1] == ["sparse", "12", "2.5", "–"]
    assert texts(ROWS, replace(STUDY, metrics=(Metric(TOP1, "x", None),))) == []
    assert texts(ROWS[2:]) == []
    falling = [row("dense", 0, {9: 0.4, 19: 0.2}), row("sparse", 0, {9: 0.3, 19: 0.1})]
    lower = replace(STUDY, metrics=(Metric(TOP1, "loss", higher=False),))
    assert texts(falling, lower)[1] == ["sparse", "15", "3", "1.50 ×"]  # 0.2 after 15 steps, 3 of 2 TFLOP
