"""search.yaml: what it may hold, what its errors say, and how its values become words, trainings and a key."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from limoe.config.places import register_resolvers
from limoe.errors import ConfigError, DataError
from limoe.search.space import (
    Sampler,
    Search,
    as_word,
    check_space,
    ends,
    override_word,
    plan_point,
    read_search,
    search_key,
)
from limoe.studies.study import Metric
from tests.helpers.paths import REPO

SHIPPED = sorted(path.parent for path in (REPO / "experiments").glob("*/search.yaml"))
WHOLE: dict[str, Any] = {
    "question": "Which\n  rate?",
    "base": ["paths.output_dir=out"],
    "space": {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
    "metric": {"key": "val/loss", "higher": False},
    "trials": 20,
}
LR = FloatDistribution(1e-4, 1e-2, log=True)


@pytest.fixture
def hydra() -> Iterator[None]:
    register_resolvers()
    with initialize_config_dir(str(REPO / "configs"), version_base="1.3"):
        yield


def search_of(folder: Path, **changes: Any) -> Search:
    content = {key: value for key, value in {**WHOLE, **changes}.items() if value is not Ellipsis}
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine" / "search.yaml").write_text(yaml.safe_dump(content))
    return read_search(folder / "mine")


def parsed(folder: Path, entry: Any) -> BaseDistribution:
    return search_of(folder, space={"optimizer.lr": entry}).space["optimizer.lr"]


def test_defaults(tmp_path: Path) -> None:
    search = search_of(tmp_path)
    assert (search.study.name, search.study.question, search.trials, search.pruning) == (
        "mine",
        "Which rate?",
        20,
        False,
    )
    assert search.study.base == ("paths.output_dir=out",) and search.study.seeds == (0,)
    assert search.metric == Metric("val/loss", "val/loss", False)
    assert search.space == {"optimizer.lr": LR}
    assert search.sampler == Sampler("tpe", 0, startup=5)  # a quarter of 20, at least 4 and at most 10


def test_all_keys(tmp_path: Path) -> None:
    sampler = {"name": "random", "seed": 3, "startup": 2}
    search = search_of(tmp_path, seeds=[1, 2], trial_timeout=90, sampler=sampler, pruning=True)
    assert search.study.seeds == (1, 2) and search.study.trial_timeout == 90.0
    assert search.sampler == Sampler("random", 3, 2) and search.pruning


@pytest.mark.parametrize(("trials", "startup"), [(1, 4), (16, 4), (24, 6), (400, 10)])
def test_startup_is_a_quarter(tmp_path: Path, trials: int, startup: int) -> None:
    assert search_of(tmp_path, trials=trials).sampler.startup == startup


def test_references_to_the_config_are_left_to_the_trainings(tmp_path: Path) -> None:
    base = ["model.mlp_dim=${model.width}"]
    search = search_of(tmp_path, base=base, space={"text.width": {"choices": ["${model.width}", 8]}})
    assert search.study.base == tuple(base) and "${model.width}" in ends(search.space["text.width"])[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": ...}, "question"),
        ({"space": {}}, "space must map config keys to ranges or choices, got {}"),
        ({"spcae": {}}, "spcae: Key 'spcae' not in 'SearchFile'"),
        ({"space": ["optimizer.lr"]}, "space must map config keys to ranges or choices"),
        ({"space": {"optimizer.lr": 1}}, "space.optimizer.lr: must be {low, high}"),
        ({"space": {"seed": {"low": 0, "high": 1}}}, "space: seed is set by the search itself"),
        ({"space": {"hydra.run.dir": {"choices": ["a", "b"]}}}, "space: hydra.run.dir is set by the search itself"),
        ({"metric": "val/loss"}, "metric: Cannot assign str to Dict"),
        ({"metric": {"key": "val/loss"}}, "metric must be {key, higher}"),
        ({"metric": {"key": "val/loss", "higher": None}}, "metric must be {key, higher}"),
        ({"metric": {"key": "val/loss", "highr": True}}, "metric must be {key, higher}, optionally name, got"),
        ({"metric": {"key": 3, "higher": True}}, "metrics must list keys"),
        ({"trials": 0}, "trials must be > 0, got 0"),
        ({"trials": True}, "trials: Value 'True' of type 'bool' could not be converted to Integer"),
        ({"seeds": [0, 0]}, "seeds must be distinct whole numbers"),
        ({"base": ["seed=1"]}, "base: seed is set by the study itself"),
        ({"trial_timeout": -1}, "trial_timeout must be a number of seconds > 0"),
        ({"pruning": "median"}, "pruning: Value 'median' is not a valid bool"),
        ({"sampler": "tpe"}, "str is not a subclass of Sampler. value: tpe"),
        ({"sampler": {"name": "grid"}}, "sampler.name must be tpe or random, got 'grid'"),
        ({"sampler": {"seed": -1}}, "sampler.seed must be >= 0, got -1"),
        ({"sampler": {"startup": 0}}, "sampler.startup must be > 0, got 0"),
    ],
)
def test_errors_name_file_and_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"search\.yaml: ") as caught:
        search_of(tmp_path, **changes)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_search(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"search\.yaml: No such file.*limoe search new FOLDER"):
        read_search(tmp_path)
    nested = 'line 2: .*; an override with a list needs quotes: "aux_loss=\\[a,b\\]"$'
    for text, message in (
        ("a: [", "not readable as YAML: line 1: "),
        ("trials: 3\nbase: [aux_loss=[load,z]]", nested),
        ("- a", "Cannot merge DictConfig with ListConfig"),
    ):
        (tmp_path / "search.yaml").write_text(text)
        with pytest.raises(DataError, match=message):
            read_search(tmp_path)


def test_ranges_and_choices(tmp_path: Path) -> None:
    assert parsed(tmp_path, {"low": 1e-4, "high": 1e-2, "log": True}) == LR
    assert ends(LR) == ["0.0001", "0.01"]
    assert parsed(tmp_path, {"low": 0.0, "high": 0.3, "step": 0.1}) == FloatDistribution(0.0, 0.3, step=0.1)
    assert parsed(tmp_path, {"low": 2, "high": 8, "step": 2}) == IntDistribution(2, 8, step=2)  # whole ends
    assert ends(IntDistribution(2, 8, step=2)) == ["2", "8"]
    assert parsed(tmp_path, {"low": 0, "high": 1.0}) == FloatDistribution(0.0, 1.0)
    choices = parsed(tmp_path, {"choices": ["bpr", 1.25, None, True, ["limoe", "z"]]})
    assert choices == CategoricalDistribution(("bpr", "1.25", "null", "true", "[limoe,z]"))
    # 0.1 + 0.2 is 0.30000000000000004
    assert (as_word(0.00123456789), as_word(0.1 + 0.2), as_word(4), as_word("a")) == ("0.00123457", "0.3", "4", "a")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, "must be {low, high}, optionally with log: true or step, or {choices: [...]}, got 3"),
        ({"low": 1}, "must be {low, high}"),
        ({"low": 1, "high": 2, "hgih": 3}, "unexpected keyword argument 'hgih'"),
        ({"low": "a", "high": 2}, "must be {low, high}"),
        ({"low": 1, "high": True}, "must be {low, high}"),
        ({"low": 1.0, "high": float("inf")}, "must be {low, high}"),
        ({"low": 3, "high": 2}, "`low <= high` must hold, but got (low=3, high=2)"),
        ({"low": 0.0, "high": 2, "log": True}, "`low > 0` must hold for `log=True`"),
        ({"low": 1, "high": 2, "log": "yes"}, "must be {low, high}"),
        ({"low": 1, "high": 9, "log": True, "step": 2}, "`log` argument is True"),
        ({"low": 1, "high": 4, "step": 2}, "not divisible"),
        ({"low": 1, "high": 4, "step": -1}, "`step > 0` must hold"),
        ({"choices": ["a"]}, "choices must be at least two different values, got ['a']"),
        ({"choices": [1, 1]}, "choices must be at least two different values, got [1, 1]"),
        ({"choices": [1, 2], "log": True}, "must be {low, high}"),
    ],
)
def test_errors_of_a_parameter(tmp_path: Path, entry: Any, message: str) -> None:
    with pytest.raises(DataError, match=r"search\.yaml: space\.optimizer\.lr: ") as caught:
        parsed(tmp_path, entry)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        "bpr",
        "a/b",
        "8",
        "true",
        "1e-4",
        "it's",
        "back\\",
        "in\\side",
        "a b",
        "",
        "nan",
        3,
        2.5,
        1e-05,
        None,
        False,
        [1, "x,y"],
        {"a": 2},
    ],
)
def test_hydra_reads_a_word_as_the_value(value: Any) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"key={override_word(value)}"])
    assert override.value() == value
    assert type(override.value()) is type(value) or isinstance(value, str)


@pytest.mark.usefixtures("hydra")
def test_a_point_is_its_values_with_each_seed(tmp_path: Path) -> None:
    search = search_of(tmp_path, seeds=[0, 4], trial_timeout=60)
    plan = plan_point(search, {"optimizer.lr": 0.002}, root=tmp_path)
    assert [trial.overrides for trial in plan.trials] == [
        ("paths.output_dir=out", "optimizer.lr=0.002", f"seed={seed}") for seed in (0, 4)
    ]
    assert plan.metrics == ("val/loss",) and plan.timeout == 60.0
    assert len({trial.folder for trial in plan.trials}) == 2


@pytest.mark.usefixtures("hydra")
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
        (
            {"optimizer.lr": WHOLE["space"]["optimizer.lr"], "data.batch_size": {"choices": [64, 0]}},
            r"^space: data\.batch_size=0: data\.batch_size must be",
        ),
    ],
)
def test_ends_and_choices_are_checked(space: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        check_space(search_of(tmp_path, space=space), root=tmp_path)


@pytest.mark.usefixtures("hydra")
def test_the_base_is_checked_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^model\.moe_layers is empty"):
        check_space(search_of(tmp_path, base=["paths.output_dir=out", "model.moe_layers=[]"]), root=tmp_path)


@pytest.mark.usefixtures("hydra")
def test_the_key_is_what_makes_values_comparable(tmp_path: Path) -> None:
    def key(**changes: Any) -> str:
        search = search_of(tmp_path, **changes)
        return search_key(search, plan_point(search, {}, root=tmp_path))

    assert key().startswith("mine_")
    assert key() == key(trials=50, pruning=True) == key(question="other") == key(base=["paths.output_dir=elsewhere"])
    changed = [
        key(space={"optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}}),
        key(metric={"key": "val/loss", "higher": True}),
        key(seeds=[0, 1]),
        key(base=["paths.output_dir=out", "data.batch_size=32"]),
    ]
    assert len({key(), *changed}) == 5


@pytest.mark.usefixtures("hydra")
@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_shipped_searches(folder: Path, tmp_path: Path) -> None:
    search = read_search(folder)
    study = replace(search.study, base=(*search.study.base, "paths.output_dir=out"))
    assert check_space(replace(search, study=study), root=tmp_path).trials
    assert (folder / "README.md").is_file()
