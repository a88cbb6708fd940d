"""What a step of a study takes: trials that threw steps away do not count."""

from pathlib import Path

import pytest
from fake_run import write_run

from limoe.reporting.run_folder import read_run
from limoe.studies.cost import _pace
from limoe.studies.results import Row
from limoe.studies.trial import State, Trial


def row(folder: Path, *, seconds: float, tries: int) -> Row:
    runs = [write_run(folder / f"try_{n + 1}") for n in range(tries)]
    trial = Trial("limoe", 0, (), "0123456789ab", folder)
    return Row(trial, State("done", seconds, runs[-1]), tuple(read_run(run) for run in runs))


def test_pace(tmp_path: Path) -> None:
    # 20 steps each: 2 and 4 seconds per step; the trial of two attempts would say 50
    rows = [
        row(tmp_path / "a", seconds=40.0, tries=1),
        row(tmp_path / "b", seconds=80.0, tries=1),
        row(tmp_path / "c", seconds=1000.0, tries=2),
    ]
    assert _pace(rows) == pytest.approx(3.0)
    assert _pace(rows[2:]) is None and _pace([]) is None
