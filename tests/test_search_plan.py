"""Points become trainings; every value of a space is checked before anything runs."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from limoe.config import register_resolvers
from limoe.errors import ConfigError
from limoe.search.plan import check_space, plan_point, search_key
from limoe.search.points import Outcome, Point, trials_of
from limoe.search.spec import Search, parse_search, read_search

REPO = Path(__file__).parents[1]
SHIPPED = sorted(path.parent for path in (REPO / "experiments").glob("*/search.yaml"))


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    register_resolvers()
    with initialize_config_dir(str(REPO / "configs"), version_base="1.3"):
        yield


def search_of(space: dict[str, Any], **changes: Any) -> Search:
    content = {"question": "?", "base": ["paths.output_dir=out"], "space": space, "trials": 3} | changes
    return parse_search({"metric": {"key": "val/loss", "higher": False}} | content, name="mine", place="search.yaml")


LR: dict[str, Any] = {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}}


def test_a_point_is_its_values_with_each_seed(tmp_path: Path) -> None:
    search = search_of(LR, seeds=[0, 4], trial_timeout=60)
    plan = plan_point(search, {"optimizer.lr": "0.002"}, root=tmp_path)
    assert [trial.overrides for trial in plan.trials] == [
        ("paths.output_dir=out", "optimizer.lr=0.002", f"seed={seed}") for seed in (0, 4)
    ]
    assert plan.metrics == ("val/loss",) and plan.timeout == 60.0
    # the folder is that of the config, so the same values are the same training in whatever point
    hashes = {trial.seed: trial.config_hash for trial in plan.trials}
    again = Point(7, {"optimizer.lr": "0.002"}, hashes, Outcome("done"))
    assert [trial.folder for trial in trials_of(again, root=tmp_path)] == [trial.folder for trial in plan.trials]
    assert len({trial.folder for trial in plan.trials}) == 2


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"optimizer.lrr": {"low": 1e-4, "high": 1e-2}},
            r"^space: optimizer\.lrr=0\.0001: unknown key 'optimizer\.lrr'; did you mean 'optimizer\.lr'\?$",
        ),
        (
            {"routing.k": {"low": 1, "high": 9}},
            r"^space: routing\.k=9: routing\.k must be at most model\.num_experts=8",
        ),
        ({"priority": {"choices": ["bpr", "loud"]}}, r"^space: priority=loud: priority has no option 'loud'"),
        ({**LR, "data.batch_size": {"choices": [64, 0]}}, r"^space: data\.batch_size=0: data\.batch_size must be"),
    ],
)
def test_ends_and_choices_are_checked(space: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        check_space(search_of(space), root=tmp_path)


def test_the_base_is_checked_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^model\.moe_layers is empty"):
        check_space(search_of(LR, base=["paths.output_dir=out", "model.moe_layers=[]"]), root=tmp_path)


def test_the_key_is_what_makes_values_comparable(tmp_path: Path) -> None:
    search = search_of(LR)

    def key(other: Search) -> str:
        return search_key(other, plan_point(other, {}, root=tmp_path))

    assert key(search).startswith("mine_")
    assert key(search) == key(replace(search, trials=50, pruning=True)) == key(search_of(LR, question="other"))
    changed = [
        search_of({"optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}}),
        search_of(LR, metric={"key": "val/loss", "higher": True}),
        search_of(LR, seeds=[0, 1]),
        search_of(LR, base=["paths.output_dir=out", "data.batch_size=32"]),
    ]
    assert len({key(search), *map(key, changed)}) == 5
    assert key(search) == key(search_of(LR, base=["paths.output_dir=elsewhere"]))


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_shipped_searches(folder: Path, tmp_path: Path) -> None:
    search = read_search(folder)
    study = replace(search.study, base=(*search.study.base, "paths.output_dir=out"))
    assert check_space(replace(search, study=study), root=tmp_path).trials
    assert (folder / "README.md").is_file()
