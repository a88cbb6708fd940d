"""run.json tells how a run ended, whatever ended it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

import limoe
from limoe.errors import ConfigError
from limoe.runs import record as module
from limoe.runs.record import RunRecord, cpu_seconds, git_commit, versions


def record(folder: Path) -> RunRecord:
    return RunRecord(folder, config_hash="0123456789ab", seed=0, overrides=["seed=0"])


def read(folder: Path) -> dict[str, Any]:
    """With a parser that refuses NaN and Infinity, which are not JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    return json.loads((folder / "run.json").read_text(), parse_constant=refuse)


def test_a_run_that_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "logs" / "a"
    monkeypatch.setattr(sys, "argv", ["/venv/bin/limoe", "train", "task=a b"])
    with record(folder) as run:
        assert read(folder)["status"] == "running"
        run.metrics |= {"val/loss": 0.5, "train/loss": float("nan"), "z": float("inf")}
        run.chance["val/a/zeroshot_top1"] = 0.25
    content = read(folder)
    assert content["status"] == "done"
    assert content["error"] is None
    assert content["command"] == "limoe train 'task=a b'"
    assert content["overrides"] == ["seed=0"]
    assert content["config_hash"] == "0123456789ab"
    assert content["seed"] == 0
    assert content["metrics"] == {"val/loss": 0.5, "train/loss": None, "z": None}
    assert content["chance"] == {"val/a/zeroshot_top1": 0.25}
    assert content["seconds"] >= 0
    assert content["versions"]["limoe"] == limoe.__version__
    assert [p.name for p in folder.iterdir()] == ["run.json"]


def test_cpu_time_since_the_process_began_or_the_record_before_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 s before the first record and 2 s within: 7; then 4 s between two records and 6 s within: 10."""
    now = iter([5.0, 7.0, 7.0, 11.0, 17.0, 17.0])
    monkeypatch.setattr(module, "cpu_seconds", lambda: next(now))
    monkeypatch.setattr(RunRecord, "_cpu_before", 0.0)
    for name, began, ended in (("a", 5.0, 7.0), ("b", 4.0, 10.0)):
        with record(tmp_path / name):
            assert read(tmp_path / name)["cpu_seconds"] == began
        assert read(tmp_path / name)["cpu_seconds"] == ended


def test_cpu_time_includes_finished_children() -> None:
    before = cpu_seconds()
    code = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert cpu_seconds() - before >= 0.2


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (RuntimeError("loss is\nNaN"), "failed", "RuntimeError: loss is NaN"),
        (ConfigError("x must be > 0, got 0"), "failed", "ConfigError: x must be > 0, got 0"),
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt"),
        (SystemExit(143), "stopped", "SystemExit"),
    ],
)
def test_a_run_that_ends_otherwise(tmp_path: Path, error: BaseException, status: str, said: str) -> None:
    with pytest.raises(type(error)), record(tmp_path):
        raise error
    assert (read(tmp_path)["status"], read(tmp_path)["error"]) == (status, said)


def test_lightnings_exit_after_ctrl_c_counts_as_stopped(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), record(tmp_path):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)
    assert (read(tmp_path)["status"], read(tmp_path)["error"]) == ("stopped", "KeyboardInterrupt")


@pytest.mark.parametrize("name", ["run.json", "checkpoints", "csv"])
def test_a_used_folder_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    if name == "run.json":
        (tmp_path / name).write_text("old")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=r"already holds a run .*nothing was changed"), record(tmp_path):
        raise AssertionError
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert name != "run.json" or (tmp_path / name).read_text() == "old"


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"hydra\.run\.dir=.*file"), record(folder):
            raise AssertionError
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_only_rank_zero_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with record(tmp_path):
        before = read(tmp_path)
        monkeypatch.setattr(rank_zero_only, "rank", 1)
        with record(tmp_path) as other:  # in the same folder, as the second rank of a run is
            other.metrics["a"] = 1.0
        assert read(tmp_path) == before
        monkeypatch.setattr(rank_zero_only, "rank", 0)
    assert read(tmp_path)["metrics"] == {}


def test_sigterm_before_training_is_recorded(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as error, record(tmp_path):
        os.kill(os.getpid(), signal.SIGTERM)
    assert error.value.code == 143
    assert read(tmp_path)["status"] == "stopped"
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_is_left_to_lightning_while_it_trains(tmp_path: Path) -> None:
    """Lightning installs a handler that calls the one before it too; that one must not cut the batch short."""
    called = []
    with record(tmp_path):
        ours = signal.getsignal(signal.SIGTERM)
        assert callable(ours)
        signal.signal(signal.SIGTERM, lambda number, frame: called.append(ours(number, frame)))
        os.kill(os.getpid(), signal.SIGTERM)
        signal.signal(signal.SIGTERM, ours)
    assert called == [None]
    assert read(tmp_path)["status"] == "done"


def test_versions_are_those_of_the_imported_packages() -> None:
    assert versions()["torch"] == torch.__version__
    assert versions()["python"].split(".")[0] == "3"


def test_git_commit(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    file = tmp_path / "a.py"
    file.touch()
    assert git_commit(file) is None  # no repository
    git("init", "-q")
    assert git_commit(file) is None  # not tracked: a package installed inside somebody else's checkout
    git("add", "a.py")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD")
    assert git_commit(file) == commit
    (tmp_path / "new.txt").touch()
    assert git_commit(file) == commit
    file.write_text("x = 1\n")
    assert git_commit(file) == f"{commit}-dirty"
