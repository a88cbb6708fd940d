"""Points and their trainings, whatever these do. The training is a small program that behaves as it is told."""

import contextlib
import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from limoe.errors import ConfigError
from limoe.search import run as module
from limoe.search.points import Point
from limoe.search.run import run_points
from limoe.search.space import Choices
from limoe.search.spec import POINT, Sampler, Search
from limoe.search.store import Store
from limoe.studies import trial as trials
from limoe.studies.plan import Plan
from limoe.studies.study import Metric, Study
from limoe.studies.trial import Trial, attempts

PROGRAM = """
import json, os, pathlib, signal, sys, time
given = dict(word.split("=", 1) for word in sys.argv[1:])
run, behave, seed = pathlib.Path(given["hydra.run.dir"]), given["behave"], int(given["seed"])
(run / "checkpoints").mkdir(parents=True)
(run / "csv").mkdir()
def record(status, error=None, **metrics):
    (run / "run.json").write_text(json.dumps({"status": status, "error": error, "metrics": metrics, "seconds": 2.0}))
def curve(*values):
    rows = [f"{10 * number + 9},{value}" for number, value in enumerate(values)]
    (run / "csv" / "metrics.csv").write_text("\\n".join(["step,score", *rows]) + "\\n")
if behave.startswith("value"):
    curve(0.5, 0.5)
    record("done", score=float(behave[5:]) + seed / 10)
    sys.exit()
record("running")
(run / "checkpoints" / "last.ckpt").touch()
if behave == "raise":
    record("failed", "DataError: no such folder")
    sys.exit(2)
elif behave == "diverge" or (behave == "diverge_late" and seed == 1):
    record("failed", "DivergedError: the loss of step 3 is not finite")
    sys.exit(2)
elif behave == "kill" and "ckpt_path" not in given:
    os.kill(os.getpid(), signal.SIGKILL)
elif behave == "hang" and "ckpt_path" not in given:
    curve(0.1)
    time.sleep(60)
elif behave.startswith("meet"):
    (pathlib.Path(given["place"]) / behave).touch()
    while len(list(pathlib.Path(given["place"]).glob("meet*"))) < 2:
        time.sleep(0.02)
record("done", score=0.25)
"""
BEHAVIOURS = (
    "value1",
    "value2",
    "value3",
    "raise",
    "diverge",
    "diverge_late",
    "kill",
    "hang",
    "meet_a",
    "meet_b",
    "bad",
)


@pytest.fixture(autouse=True)
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "train.py"
    program.write_text(PROGRAM)
    monkeypatch.setattr(trials, "TRAIN", (sys.executable, str(program)))
    monkeypatch.setattr(trials, "_GRACE", 0.5)
    monkeypatch.setattr(trials, "_LOOK", 0.05)
    monkeypatch.setattr(module, "_LOOK", 0.05)
    monkeypatch.setattr(module, "plan_point", plan_point)


def plan_point(search: Search, words: Mapping[str, str], *, root: Path) -> Plan:
    """As the real one, without composing configs."""
    if words["behave"] == "bad":
        raise ConfigError("behave must be good, got 'bad'")
    planned = []
    for seed in search.study.seeds:
        overrides = (f"place={root}", *(f"{key}={word}" for key, word in words.items()), f"seed={seed}")
        digest = hashlib.sha256(repr(overrides).encode()).hexdigest()[:12]
        planned.append(Trial(POINT, seed, overrides, digest, root / POINT / f"seed_{seed}_{digest}"))
    return Plan(tuple(planned), ("score",), search.study.trial_timeout, {}, {})


def search_of(
    trials: int, *, seeds: tuple[int, ...] = (0,), timeout: float | None = 60.0, pruning: bool = False
) -> Search:
    study = Study("mine", "?", (), {POINT: ()}, seeds, (Metric("score", "score"),), POINT, trial_timeout=timeout)
    return Search(study, {"behave": Choices(BEHAVIOURS)}, trials, Sampler("random", 0, 4), pruning)


@contextlib.contextmanager
def searched(root: Path, search: Search, *behaviours: str) -> Iterator[Store]:
    """A store whose first points behave as told."""
    with contextlib.closing(Store(root, key="mine_0", search=search)) as store:
        for behave in behaviours:
            store._study.enqueue_trial({"behave": behave})
        yield store


def run(store: Store, root: Path, *, n_jobs: int = 1) -> tuple[list[Point], str]:
    console = Console(record=True, width=200)
    run_points(store.search, store, root=root, n_jobs=n_jobs, console=console)
    return store.points(), console.export_text()


def tries(root: Path) -> int:
    return sum(len(attempts(folder)) for folder in (root / POINT).iterdir())


def test_failures_are_points_and_never_stop_the_search(tmp_path: Path) -> None:
    behaviours = ("value1", "raise", "diverge", "kill", "bad", "value3", "value2")
    with searched(tmp_path, search_of(7), *behaviours) as store:
        points, said = run(store, tmp_path)
        assert [point.status for point in points] == ["done", "failed", "diverged", "killed", "refused", "done", "done"]
        assert [point.value for point in points] == [1.0, None, None, None, None, 3.0, 2.0]
        assert [point.outcome.error for point in points[1:5]] == [
            "seed 0: DataError: no such folder",
            "seed 0: the loss of step 3 is not finite",
            "seed 0: killed by signal 9",
            "behave must be good, got 'bad'",
        ]
        assert "point 0: 1 (the best so far), 2 s, behave=value1" in said
        assert "point 2: diverged" in said and "point 5: 3 (the best so far)" in said and "point 6: 2, 2 s" in said
        # the same command again: the failed one fails again, the killed one goes on from its checkpoint
        assert store.retry() == 2
        again, _ = run(store, tmp_path)
        assert [(point.words["behave"], point.status) for point in again[-2:]] == [
            ("raise", "failed"),
            ("kill", "done"),
        ]
        assert again[-1].value == 0.25 and len(again) == 7


def test_the_value_is_the_mean_over_seeds(tmp_path: Path) -> None:
    with searched(tmp_path, search_of(2, seeds=(0, 1, 2)), "value2", "diverge_late") as store:
        (good, bad), _ = run(store, tmp_path)
        assert good.outcome.values == {0: 2.0, 1: 2.1, 2: 2.2} and good.value == pytest.approx(2.1)
        assert good.outcome.seconds == 6.0 and set(good.hashes) == {0, 1, 2}
        # the second seed ends it: the third is not trained
        assert (bad.status, bad.outcome.values, bad.value) == ("diverged", {0: 0.25}, None)
        assert bad.outcome.error.startswith("seed 1: ") and tries(tmp_path) == 5


def test_a_training_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    with searched(tmp_path, search_of(3), "value1", "value1", "value1") as store:
        points, _ = run(store, tmp_path)
        assert [point.value for point in points] == [1.0, 1.0, 1.0] and tries(tmp_path) == 1


def test_points_run_side_by_side(tmp_path: Path) -> None:
    with searched(tmp_path, search_of(2), "meet_a", "meet_b") as store:  # each waits for the other
        points, _ = run(store, tmp_path, n_jobs=2)
        assert [point.status for point in points] == ["done", "done"]


def test_equal_points_side_by_side_share_their_training(tmp_path: Path) -> None:
    with searched(tmp_path, search_of(2), "value1", "value1") as store:
        points, _ = run(store, tmp_path, n_jobs=2)
        assert [point.value for point in points] == [1.0, 1.0] and tries(tmp_path) == 1


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_interrupted_search_goes_on(tmp_path: Path, n_jobs: int) -> None:
    search = search_of(3)

    def interrupt() -> None:
        while not list(tmp_path.glob(f"{POINT}/*/try_1/checkpoints/last.ckpt")):  # of the training that hangs
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with searched(tmp_path, search, "hang", "value1", "value2") as store:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(SystemExit) as caught:
            run(store, tmp_path, n_jobs=n_jobs)
        assert caught.value.code == 143 and signal.getsignal(signal.SIGTERM) == before
        assert store.points()[0].status == "running"
        (state,) = [
            json.loads(path.read_text())
            for path in tmp_path.glob(f"{POINT}/*/trial.json")
            if "hang" in path.read_text()
        ]
        assert state["status"] == "interrupted"
    with searched(tmp_path, search) as store:
        points, _ = run(store, tmp_path, n_jobs=n_jobs)
        assert [(point.status, point.value) for point in points] == [("done", 0.25), ("done", 1.0), ("done", 2.0)]


def test_a_training_that_outlived_its_search_is_waited_for(tmp_path: Path) -> None:
    with searched(tmp_path, search_of(1), "value1") as store:
        (trial,) = plan_point(store.search, {"behave": "value1"}, root=tmp_path).trials
        trial.folder.mkdir(parents=True)
        (trial.folder / "trial.json").write_text(
            json.dumps({"status": "running", "error": "", "seconds": 0.0, "run": "try_1"})
        )
        lock = trials._Lock(trial.folder)
        assert lock.__enter__() is not None

        def end_later() -> None:
            time.sleep(0.3)
            (trial.folder / "try_1").mkdir()
            record = {"status": "done", "metrics": {"score": 7.0}, "seconds": 1.0, "error": None}
            (trial.folder / "try_1" / "run.json").write_text(json.dumps(record))
            lock.__exit__()

        threading.Thread(target=end_later, daemon=True).start()
        (point,), _ = run(store, tmp_path)
        assert (point.value, tries(tmp_path)) == (7.0, 1)


def test_a_point_below_the_median_is_given_up(tmp_path: Path) -> None:
    search = search_of(6, seeds=(0, 1), pruning=True)
    good = ("value1", "value2", "value3", "value1", "value2")
    with searched(tmp_path, search, *good, "hang") as store:  # 0.1 at its first step, the others 0.5
        points, said = run(store, tmp_path)
        assert [point.status for point in points] == ["done"] * 5 + ["pruned"]
        assert points[-1].value is None and "point 5: pruned" in said and "below the median at step 9" in said
    with searched(tmp_path / "off", replace(search, pruning=False, trials=1), "value1") as store:
        run(store, tmp_path / "off")
        assert store._study.trials[0].intermediate_values == {}


def test_a_fault_of_ours_ends_all_and_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Plan:
        raise RuntimeError("ours")

    monkeypatch.setattr(module, "plan_point", broken)
    with searched(tmp_path, search_of(4)) as store, pytest.raises(RuntimeError, match="ours"):
        run(store, tmp_path, n_jobs=2)
