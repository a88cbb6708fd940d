"""What a step of a study takes: trials that threw steps away do not count."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from limoe.config.places import config_dir, register_resolvers
from limoe.runs.folder import read_run
from limoe.studies.cost import costs_of
from limoe.studies.plan import plan_study
from limoe.studies.results import Row
from limoe.studies.study import parse_study
from limoe.studies.trial import State, Trial
from tests.helpers.fake_run import write_run


@pytest.fixture(autouse=True)
def hydra_configs() -> Iterator[None]:
    register_resolvers()
    with initialize_config_dir(str(config_dir("train")), version_base="1.3"):
        yield


def row(folder: Path, *, seconds: float, tries: int) -> Row:
    runs = [write_run(folder / f"try_{n + 1}") for n in range(tries)]
    trial = Trial("limoe", 0, (), "0123456789ab", folder)
    return Row.of(trial, State("done", seconds, runs[-1]), [read_run(run) for run in runs])


def test_pace(tmp_path: Path) -> None:
    # 20 steps each: 2 and 4 seconds per step; the trial of two attempts would say 50
    rows = [
        row(tmp_path / "a", seconds=40.0, tries=1),
        row(tmp_path / "b", seconds=80.0, tries=1),
        row(tmp_path / "c", seconds=1000.0, tries=2),
    ]
    content = {"question": "?", "base": ["paths.output_dir=out"], "variants": {"limoe": []}, "seeds": [0]}
    study = parse_study({**content, "metrics": ["val/loss"]}, name="s", place="study.yaml")
    plan = plan_study(study, root=tmp_path)
    paces = [costs_of(plan, some)[0].seconds_per_step for some in (rows, rows[2:], [])]
    assert paces == [pytest.approx(3.0), None, None]
