"""Every study of experiments/: it can be read, its configs compose, and its models can be built at both scales."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from limoe.config.places import config_dir, register_resolvers
from limoe.studies.cost import costs_of
from limoe.studies.plan import plan_study
from limoe.studies.study import Study, read_study
from tests.helpers.paths import REPO

FOLDERS = sorted(path.parent for path in (REPO / "experiments").glob("*/study.yaml"))


@pytest.fixture(autouse=True)
def hydra_configs() -> Iterator[None]:
    register_resolvers()
    with initialize_config_dir(str(config_dir("train")), version_base="1.3"):
        yield


AT_PAPER_SCALE = FOLDERS[:9]  # the others have data of their own: emblems with names


def test_the_studies_are_here() -> None:
    assert [folder.name[:2] for folder in FOLDERS] == [f"{n:02}" for n in range(1, 12)]
    assert [read_study(folder).paper_scale is not None for folder in FOLDERS] == [f in AT_PAPER_SCALE for f in FOLDERS]


CASES = [*((folder, "own") for folder in FOLDERS), *((folder, "paper") for folder in AT_PAPER_SCALE)]


@pytest.mark.parametrize(("folder", "scale"), CASES, ids=lambda value: getattr(value, "name", value))
def test_every_variant_is_a_run_of_its_own_and_can_be_built(folder: Path, scale: str, tmp_path: Path) -> None:
    study: Study | None = read_study(folder)
    if scale == "paper":
        study = study.paper_scale
    assert study is not None and study.expectation and study.paper and len(study.seeds) >= 3
    plan = plan_study(study, root=tmp_path, extra=["paths.output_dir=out"])
    assert len({trial.config_hash for trial in plan.trials}) == len(plan.trials), "two variants are the same run"
    costs = costs_of(plan, [])
    at_paper_scale = 80_000_000 if scale == "paper" else 0
    assert len(costs) == len(study.variants) and all(cost.active > at_paper_scale for cost in costs)
