"""Which runs somebody means, and what each of them left behind."""

from pathlib import Path
from typing import Any

import pytest

from limoe.errors import DataError
from limoe.studies.run_set import digest, find_runs, last_run, read_row
from tests.helpers.fake_run import trained, trial


def test_runs_are_found_in_folders_and_patterns_each_once(tmp_path: Path) -> None:
    a, b = trained(tmp_path / "runs" / "a"), trained(tmp_path / "runs" / "b")
    c = trial(tmp_path / "study" / "wide" / "seed_0", status="done", attempts=2)
    (tmp_path / "runs" / "notes.txt").write_text("x")
    assert find_runs([str(tmp_path)])[0] == [a, b, c]
    assert find_runs([str(b), str(tmp_path / "runs" / "*")]) == ([b, a], [])
    assert find_runs([f"{tmp_path}/**/seed_*"])[0] == [c]
    assert find_runs([str(c / "try_1"), str(c / "try_2")])[0] == [c]  # attempts of one trial
    assert (last_run(c), last_run(a)) == (c / "try_2", a)
    assert find_runs([str(a), str(tmp_path / "runs" / "notes.txt")]) == ([a], [str(tmp_path / "runs" / "notes.txt")])


@pytest.mark.parametrize("place", ["nowhere", "empty", "nothing/*", "empty/*.txt"])
def test_places_without_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"is no run folder: it holds no run\.json") as caught:
        find_runs([place])
    assert str(caught.value).startswith(place)
    trained(tmp_path / "run")
    if place == "nowhere":
        with pytest.raises(DataError, match="nowhere is no run folder"):  # a name that was meant, misspelt
            find_runs(["run", place])
    else:
        assert find_runs(["run", place]) == ([Path("run")], [place])


def test_a_set_has_one_name_in_any_order(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    assert digest([a, b]) == digest([b, a]) != digest([a])


@pytest.mark.parametrize(
    ("record", "status", "error"),
    [
        ({"status": "done"}, "done", ""),
        ({"status": "stopped", "error": "collapse alarm: text"}, "stopped", "collapse alarm: text"),
        ({"status": "stopped", "error": "KeyboardInterrupt"}, "interrupted", "KeyboardInterrupt"),
        ({"status": "stopped", "error": "SIGTERMException"}, "interrupted", "SIGTERMException"),
        ({"status": "failed", "error": "DivergedError: loss is nan"}, "diverged", "loss is nan"),
        ({"status": "failed", "error": "DataError: x"}, "failed", "DataError: x"),
        ({"status": "running"}, "interrupted", "has not ended, or was killed"),
        ({"status": 3}, "unreadable", "run.json has no known status"),
    ],
)
def test_how_a_run_ended(tmp_path: Path, record: dict[str, Any], status: str, error: str) -> None:
    row = read_row(trained(tmp_path / "run", **record))
    assert (row.state.status, row.state.error) == (status, error)


def test_configs_without_seed_and_folders(tmp_path: Path) -> None:
    first, second = (read_row(trained(tmp_path / name, seed=seed)) for name, seed in (("a", 3), ("deep/er", 5)))
    assert (first.trial.seed, second.trial.seed) == (3, 5)
    assert first.config["data"]["module"] == {"seed": 3, "root": "/data"} and "seed" not in first.config
    assert first.config["callbacks"] == second.config["callbacks"]
    assert first.config["callbacks"]["checkpoint"]["dirpath"] == "<output_dir>/checkpoints"
    assert first.trial.overrides == ("experiment=scenes",)
