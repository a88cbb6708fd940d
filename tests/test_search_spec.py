"""search.yaml: what it may hold, and what its errors say."""

from pathlib import Path
from typing import Any

import pytest

from limoe.errors import ConfigError, DataError
from limoe.search.skeleton import write_skeleton
from limoe.search.space import Choices, Range
from limoe.search.spec import Sampler, Search, parse_search, read_search
from limoe.studies.study import Metric

WHOLE: dict[str, Any] = {
    "question": "Which\n  rate?",
    "base": ["experiment=demo"],
    "space": {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "priority": {"choices": ["bpr", "random"]}},
    "metric": {"key": "val/loss", "higher": False},
    "trials": 20,
}


def parsed(**changes: Any) -> Search:
    content = {key: value for key, value in {**WHOLE, **changes}.items() if value is not Ellipsis}
    return parse_search(content, name="mine", place="search.yaml")


def test_defaults() -> None:
    search = parsed()
    assert (search.name, search.study.question, search.trials, search.pruning) == ("mine", "Which rate?", 20, False)
    assert search.study.base == ("experiment=demo",) and search.study.seeds == (0,)
    assert search.metric == Metric("val/loss", "val/loss", False)
    assert search.space == {"optimizer.lr": Range(1e-4, 1e-2, log=True), "priority": Choices(("bpr", "random"))}
    assert search.sampler == Sampler("tpe", 0, startup=5)  # a quarter of 20, at least 4 and at most 10


def test_all_keys() -> None:
    sampler = {"name": "random", "seed": 3, "startup": 2}
    search = parsed(seeds=[1, 2], trial_timeout=90, sampler=sampler, pruning=True)
    assert search.study.seeds == (1, 2) and search.study.trial_timeout == 90.0
    assert search.sampler == Sampler("random", 3, 2) and search.pruning


@pytest.mark.parametrize(("trials", "startup"), [(1, 4), (16, 4), (24, 6), (400, 10)])
def test_startup_is_a_quarter(trials: int, startup: int) -> None:
    assert parsed(trials=trials).sampler.startup == startup


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": ...}, "question is missing"),
        ({"space": {}}, "space is missing"),
        ({"spcae": {}}, "spcae: unknown key; did you mean 'space'?"),
        ({"space": ["optimizer.lr"]}, "space must map config keys to ranges or choices"),
        ({"space": {"optimizer.lr": 1}}, "space.optimizer.lr must be {low, high} or {choices}, got 1"),
        ({"metric": "val/loss"}, "metric must be {key, higher}, and perhaps name, got 'val/loss'"),
        ({"metric": {"key": "val/loss"}}, "metric must be {key, higher}"),
        ({"metric": {"key": "val/loss", "highr": True}}, "metric: unknown key 'highr'; did you mean 'higher'?"),
        ({"metric": {"key": 3, "higher": True}}, "metrics must list keys"),
        ({"trials": 0}, "trials must be a whole number > 0, got 0"),
        ({"trials": True}, "trials must be a whole number > 0, got True"),
        ({"seeds": [0, 0]}, "seeds must be distinct whole numbers"),
        ({"base": ["seed=1"]}, "base: seed is set by the study itself"),
        ({"trial_timeout": -1}, "trial_timeout must be a number of seconds > 0"),
        ({"pruning": "median"}, "pruning must be true or false, got 'median'"),
        ({"sampler": "tpe"}, "sampler must be {name, seed, startup}, got 'tpe'"),
        ({"sampler": {"name": "grid"}}, "sampler.name must be one of tpe, random, got 'grid'"),
        ({"sampler": {"seed": -1}}, "sampler.seed must be a whole number >= 0, got -1"),
        ({"sampler": {"startup": 0}}, "sampler.startup must be a whole number > 0, got 0"),
    ],
)
def test_errors_name_file_and_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"^search\.yaml: ") as caught:
        parsed(**changes)
    assert message in str(caught.value)


def test_read_search(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"search\.yaml: No such file.*limoe search new FOLDER"):
        read_search(tmp_path)
    nested = 'line 2: .*; an override with a list needs quotes: "aux_loss=\\[a,b\\]"$'
    for text, message in (
        ("a: [", "not readable as YAML: line 1: "),
        ("trials: 3\nbase: [aux_loss=[load,z]]", nested),
        ("- a", "must hold keys and values, got list"),
    ):
        (tmp_path / "search.yaml").write_text(text)
        with pytest.raises(DataError, match=message):
            read_search(tmp_path)


def test_the_skeleton_is_a_search_and_is_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert [path.name for path in write_skeleton(folder)] == ["search.yaml", "README.md"]
    search = read_search(folder)
    assert search.space["optimizer.lr"] == Range(1e-4, 1e-2, log=True)  # 1e-4 is a number here, as it is for Hydra
    assert search.name == "mine"
    with pytest.raises(ConfigError, match="exists already"):
        write_skeleton(folder)
