"""Curves in a file: the page of a study from committed files alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from limoe.errors import DataError
from limoe.runs.folder import Curve
from limoe.studies.curves import with_curves, write_curves
from limoe.studies.report import conclude
from tests.helpers.study_rows import COSTS, PLAN, ROWS, STUDY, TOP1, row


def test_a_report_can_be_made_again_with_its_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training loss of 200 steps is 50 means; validations stay, with five digits."""
    long = {step: step / 3 for step in range(200)}
    rows = [replace(row, curves={**row.curves, "train/contrastive": long, "else": long}) for row in ROWS]
    monkeypatch.setattr("limoe.studies.report.collect", lambda plan, states: rows)
    monkeypatch.setattr("limoe.studies.report.costs_of", lambda plan, rows, *, leave_out: COSTS)
    conclude(STUDY, PLAN, [], out=tmp_path)
    names = ("report.html", "report.md", "answer.svg", "curves.csv", "reach.csv")
    before = [(tmp_path / name).read_bytes() for name in names]
    conclude(STUDY, PLAN, None, out=tmp_path)
    assert [(tmp_path / name).read_bytes() for name in names] == before
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    assert len(lines) == 1 + 7 * 2 + 7 * 50
    assert lines[:3] == ["variant,seed,key,step,value", f"a,0,{TOP1},10,0.1", f"a,0,{TOP1},20,0.3"]
    assert lines[7] == "a,0,train/contrastive,2,0.5"  # steps 0 to 3: mean 1.5; their thirds: 0.5
    found = with_curves(rows[-1:], tmp_path)[0].curves
    assert found[TOP1] == {10: 0.1, 20: 0.9} and len(found["train/contrastive"]) == 50 and "else" not in found
    (tmp_path / "curves.csv").write_text("variant,seed\na,0\n")
    with pytest.raises(DataError, match=r"curves\.csv cannot be read as curves: KeyError: "):
        conclude(STUDY, PLAN, None, out=tmp_path)
    rows = [replace(row, curves={}) for row in ROWS]
    conclude(STUDY, PLAN, [], out=tmp_path)
    assert not (tmp_path / "curves.csv").exists()


def test_seeds_of_different_length_keep_their_steps_in_common(tmp_path: Path) -> None:
    """100 and 120 points: groups of ceil(120 / 50) = 3 for both, at steps 1, 4, 7 ..."""
    curves: list[dict[str, Curve]] = [{"x": dict.fromkeys(range(length), 1.0)} for length in (100, 120)]
    rows = [replace(row("a", seed), curves=curves[seed]) for seed in (0, 1)]
    write_curves(STUDY, rows, tmp_path, keys=["x"])
    short, long = (row.curves["x"] for row in with_curves(rows, tmp_path))
    assert list(long) == list(range(1, 120, 3)) and list(short)[:33] == list(long)[:33]
