"""Headline, numbers and factors in words."""

import math
from pathlib import Path

import pytest

from limoe.reporting.findings import duration, factor, headline, metric_sheet, number
from limoe.runs.folder import RunFolder, read_run
from tests.helpers.fake_run import TOP1, write_run


def test_values_that_are_not_finite_are_shown(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", metrics={TOP1: None}))
    assert math.isnan(run.metrics[TOP1])
    assert headline(run).endswith("shapes: nan (top-1), chance (5.0%).")


def test_headline_without_accuracy_or_chance(tmp_path: Path) -> None:
    assert headline(RunFolder(tmp_path)) == "Status unknown. No zero-shot accuracy and no R@1 was measured."
    run = RunFolder(tmp_path, record={"status": "done", "metrics": {TOP1: 0.5}})
    assert (
        headline(run) == "Finished. Zero-shot accuracy on the held-out images of shapes: 50.0% (top-1; chance unknown)."
    )


def test_the_headline_is_the_first_task_of_the_run(tmp_path: Path) -> None:
    r1 = "val/scenes/i2t_r1"
    values = {TOP1: 0.5, r1: 0.1}
    run = RunFolder(tmp_path, record={"status": "done", "metrics": values, "chance": {r1: 0.002, TOP1: 0.05}})
    assert headline(run) == "Finished. Retrieval of texts by the images of scenes: 10.0% (R@1), 50.0 × chance (0.20%)."


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        (TOP1, 0.4751, "47.5%"),
        ("val/found/i2t_r10", 0.00551, "0.55%"),
        ("router/text/success_rate", 1.0, "100.0%"),
        ("train/loss", 0.123456, "0.1235"),
        (TOP1, float("inf"), "inf"),
    ],
)
def test_numbers(key: str, value: float, text: str) -> None:
    assert number(key, value) == text


def test_factors_and_durations() -> None:
    assert [factor(0.5, 0.01), factor(1.0, 0.001), factor(0.5, 0.0), factor(0.5, None)] == ["50.0 ×", "1000 ×", "", ""]
    assert [duration(s) for s in (59.6, 151, 7200, None)] == ["1 min 0 s", "2 min 31 s", "2 h 0 s", ""]


def test_rows_with_a_chance_come_first_in_its_order_the_others_by_number() -> None:
    metrics = {"val/b_r10": 0.5, "val/b_r5": 0.25, TOP1: 0.475, "val/a": 1.0}
    table = metric_sheet(metrics, chance={TOP1: 0.05, "val/a": 0.5, "val/unmeasured": 0.1})
    rows = [[cell.text for cell in row] for row in table.rows]
    assert [row[0] for row in rows] == [TOP1, "val/a", "val/b_r5", "val/b_r10"]
    assert rows[0][1:] == ["47.5%", "5.0%", "9.5 ×"]
    assert rows[2][2:] == ["", ""]
