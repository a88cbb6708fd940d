"""What a step of a study takes: trials that threw steps away do not count."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from limoe.config.places import config_dir, register_resolvers
from limoe.reporting.sheets import as_csv
from limoe.runs.folder import read_run
from limoe.studies.cost import Cost, costs_of
from limoe.studies.plan import plan_study
from limoe.studies.results import Row
from limoe.studies.side_tables import cost_sheet
from limoe.studies.study import parse_study
from limoe.studies.trial import State, Trial
from tests.helpers.fake_run import write_run


@pytest.fixture(autouse=True)
def hydra_configs() -> Iterator[None]:
    register_resolvers()
    with initialize_config_dir(str(config_dir("train")), version_base="1.3"):
        yield


def row(folder: Path, *, seconds: float, tries: int, **record: float) -> Row:
    runs = [write_run(folder / f"try_{n + 1}", **record) for n in range(tries)]
    trial = Trial("limoe", 0, (), "0123456789ab", folder)
    return Row.of(trial, State("done", seconds, runs[-1]), [read_run(run) for run in runs])


def test_pace(tmp_path: Path) -> None:
    # 20 steps each: 2 and 4 seconds per step; the trial of two attempts would say 50
    rows = [
        row(tmp_path / "a", seconds=40.0, tries=1, cpu_seconds=60.0),
        row(tmp_path / "b", seconds=80.0, tries=1, cpu_seconds=70.0),
        row(tmp_path / "c", seconds=1000.0, tries=2, cpu_seconds=1000.0),
    ]
    content = {"question": "?", "base": ["paths.output_dir=out"], "variants": {"limoe": []}, "seeds": [0]}
    study = parse_study({**content, "metrics": ["val/loss"]}, name="s", place="study.yaml")
    plan = plan_study(study, root=tmp_path)
    paces = [costs_of(plan, some)[0].seconds_per_step for some in (rows, rows[2:], [])]
    assert paces == [pytest.approx(3.0), None, None]
    assert [costs_of(plan, some)[0].cpu_seconds for some in (rows, rows[2:])] == [65.0, None]


def test_the_unit_of_a_run_is_readable() -> None:
    """64 pairs of 1 GFLOP in 10 steps: 0.64 TFLOP, so GFLOP; twenty times that is 12.8 TFLOP."""
    small = Cost("a", 2_000_000, 1_000_000, 1e9, 64, 10, None, cpu_seconds=125.0)
    table = cost_sheet([small])
    assert table.columns[4:] == ("GFLOP per run", "seconds per step", "CPU time per run")
    assert [cell.text for cell in table.rows[0][1:]] == ["2.00 M", "1.00 M", "1", "640", "–", "2 min 5 s"]
    assert as_csv(table).splitlines()[1] == "a,2e+06,1e+06,1,640,–,125"
    large = cost_sheet([small, replace(small, variant="b", max_steps=200)])
    assert large.columns[4] == "TFLOP per run"
    assert [row[4].text for row in large.rows] == ["0.64", "12.8"]
    assert cost_sheet([]).rows == ()
