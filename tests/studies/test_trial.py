"""One trial, whatever its training does. The training is a small program that behaves as it is told."""

import fcntl
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from limoe.studies import trial as module
from limoe.studies.trial import Trial, attempts, read_state, run_trial

PROGRAM = """
import json, os, pathlib, signal, sys, time
given = dict(word.split("=", 1) for word in sys.argv[1:])
run = pathlib.Path(given["hydra.run.dir"])
(run / "checkpoints").mkdir(parents=True)
def record(status, error=None, **metrics):
    (run / "run.json").write_text(json.dumps({"status": status, "error": error, "metrics": metrics, "seconds": 2.0}))
behave = given["behave"]
if "ckpt_path" in given:
    record("done", score=0.75)
    sys.exit()
record("running")
(run / "checkpoints" / "last.ckpt").touch()
if behave == "good":
    record("done", score=0.5)
elif behave == "stopped":
    record("stopped", "collapse alarm", score=0.25)
elif behave == "raise":
    record("failed", "DataError: data.root: no such folder")
    print("limoe: error: data.root: no such folder")
    sys.exit(2)
elif behave == "early":
    print("limoe: error: model.width must be > 0, got 0")
    sys.exit(2)
elif behave == "diverge":
    record("failed", "DivergedError: the loss of step 3 is not finite")
    sys.exit(2)
elif behave == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
elif behave == "empty":
    record("done", loss=1.0)
elif behave == "nan":
    record("done", score=None)
elif behave == "hang":
    time.sleep(60)
elif behave == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (run / "deaf").touch()
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "train.py"
    program.write_text(PROGRAM)
    monkeypatch.setattr(module, "TRAIN", (sys.executable, str(program)))
    monkeypatch.setattr(module, "_GRACE", 0.5)


def trial_that(behave: str, folder: Path) -> Trial:
    return Trial("limoe", 0, (f"behave={behave}", "seed=0"), "0123456789ab", folder / behave)


@pytest.mark.parametrize(
    ("behave", "status", "error"),
    [
        ("good", "done", ""),
        ("stopped", "stopped", "collapse alarm"),
        ("raise", "failed", "DataError: data.root: no such folder"),
        ("early", "failed", "model.width must be > 0, got 0"),
        ("diverge", "diverged", "the loss of step 3 is not finite"),
        ("kill", "killed", "killed by signal 9"),
        ("empty", "no result", "no value of score"),
        ("nan", "no result", "no value of score"),
        ("hang", "timeout", "ended after the time limit of the study"),
        ("deaf", "timeout", "ended after the time limit of the study"),
    ],
)
def test_every_end_is_a_state(tmp_path: Path, behave: str, status: str, error: str) -> None:
    trial = trial_that(behave, tmp_path)
    assert read_state(trial).status == "pending"
    timeout = 2.0 if behave in ("hang", "deaf") else 60.0
    state = run_trial(trial, metrics=["score"], timeout=timeout)
    assert (state.status, state.error) == (status, error)
    assert read_state(trial) == state
    assert state.finished == (status in ("done", "stopped"))


def test_no_result_becomes_one_when_the_metric_is_corrected(tmp_path: Path) -> None:
    trial = trial_that("empty", tmp_path)  # logs `loss` alone
    assert run_trial(trial, metrics=["score"], timeout=None).status == "no result"
    assert run_trial(trial, metrics=["loss"], timeout=None).status == "done"
    assert [run.name for run in attempts(trial.folder)] == ["try_1"]


def test_no_result_is_tried_again_while_it_stays_so(tmp_path: Path) -> None:
    trial = trial_that("nan", tmp_path)
    for tries in (1, 2):
        assert run_trial(trial, metrics=["score"], timeout=None).status == "no result"
        assert len(attempts(trial.folder)) == tries


def test_a_finished_trial_is_not_run_again(tmp_path: Path) -> None:
    trial = trial_that("good", tmp_path)
    first = run_trial(trial, metrics=["score"], timeout=None)
    assert run_trial(trial, metrics=["score"], timeout=None) == first
    assert [run.name for run in attempts(trial.folder)] == ["try_1"]


def test_a_killed_trial_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    trial = trial_that("kill", tmp_path)
    run_trial(trial, metrics=["score"], timeout=None)
    state = run_trial(trial, metrics=["score"], timeout=None)  # the program ends well when it is given a checkpoint
    assert state.status == "done" and state.run == trial.folder / "try_2"
    assert state.seconds == 4.0  # both attempts


def test_a_failed_trial_begins_anew(tmp_path: Path) -> None:
    trial = trial_that("raise", tmp_path)
    run_trial(trial, metrics=["score"], timeout=None)
    assert run_trial(trial, metrics=["score"], timeout=None).status == "failed"  # with a checkpoint it would be done
    assert [run.name for run in attempts(trial.folder)] == ["try_1", "try_2"]


def test_a_trial_that_runs_elsewhere_is_left_alone(tmp_path: Path) -> None:
    trial = trial_that("good", tmp_path)
    trial.folder.mkdir()
    content = {"status": "running", "error": "", "seconds": 0.0, "run": "try_1"}
    (trial.folder / "trial.json").write_text(json.dumps(content))
    with (trial.folder / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert read_state(trial).status == "running"
        assert run_trial(trial, metrics=["score"], timeout=None).status == "running"
    assert read_state(trial).status == "interrupted"  # the lock is no longer held
    assert run_trial(trial, metrics=["score"], timeout=None).status == "done"


def test_a_trial_that_begins_elsewhere_counts_as_running(tmp_path: Path) -> None:
    trial = trial_that("good", tmp_path)
    trial.folder.mkdir()
    with (trial.folder / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert run_trial(trial, metrics=["score"], timeout=None).status == "running"
        content = {"status": "failed", "error": "why", "seconds": 1.0, "run": "try_1"}
        (trial.folder / "trial.json").write_text(json.dumps(content))
        state = run_trial(trial, metrics=["score"], timeout=None)
        assert (state.status, state.error) == ("running", "")
    assert run_trial(trial, metrics=["score"], timeout=None).status == "done"


def test_a_broken_state_file_is_an_interrupted_trial(tmp_path: Path) -> None:
    trial = trial_that("good", tmp_path)
    trial.folder.mkdir()
    (trial.folder / "trial.json").write_text("{")
    assert read_state(trial).status == "interrupted"
    assert run_trial(trial, metrics=["score"], timeout=None).status == "done"


def test_sigterm_ends_the_training_and_is_raised_again(tmp_path: Path) -> None:
    trial = trial_that("hang", tmp_path)

    def interrupt() -> None:
        while not (trial.folder / "try_1" / "run.json").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(SystemExit) as caught:
        run_trial(trial, metrics=["score"], timeout=200)
    assert caught.value.code == 143
    assert read_state(trial).status == "interrupted"
    pid = json.loads((trial.folder / "trial.json").read_text())["pid"]
    assert pid is None
    assert run_trial(trial, metrics=["score"], timeout=200).status == "done"  # from the checkpoint


def test_what_the_watcher_raises_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.05)
    trial = trial_that("hang", tmp_path)
    seen = []

    def watch(run: Path) -> None:
        seen.append(run)
        if (run / "run.json").exists():
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        run_trial(trial, metrics=["score"], timeout=200, watch=watch)
    assert set(seen) == {trial.folder / "try_1"}
    assert read_state(trial).status == "interrupted"
    assert run_trial(trial, metrics=["score"], timeout=200).status == "done"  # from the checkpoint


def test_a_watched_training_has_its_time_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.05)
    state = run_trial(trial_that("hang", tmp_path), metrics=["score"], timeout=1.0, watch=lambda run: None)
    assert state.status == "timeout"


@pytest.mark.parametrize(("recorded", "tries"), [("done", 1), ("running", 2)])
def test_a_training_that_outlived_its_watcher_counts(tmp_path: Path, recorded: str, tries: int) -> None:
    trial = trial_that("good", tmp_path)
    run = trial.folder / "try_1"
    run.mkdir(parents=True)
    content = {"status": "running", "error": "", "seconds": 0.0, "run": "try_1"}
    (trial.folder / "trial.json").write_text(json.dumps(content))
    (run / "run.json").write_text(json.dumps({"status": recorded, "metrics": {"score": 0.5}, "seconds": 3.0}))
    state = run_trial(trial, metrics=["score"], timeout=None)
    assert (state.status, len(attempts(trial.folder))) == ("done", tries)
    assert read_state(trial) == state
