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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from limoe.errors import ConfigError, DataError
from limoe.files import try_lock
from limoe.search import points as module
from limoe.search.points import Worker, locked, opened, tries
from limoe.search.report import print_point
from limoe.search.space import POINT, Sampler, Search
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


def plan_point(search: Search, params: Mapping[str, Any], *, root: Path) -> Plan:
    """As the real one, without composing configs."""
    if params["behave"] == "bad":
        raise ConfigError("behave must be good, got 'bad'")
    planned = []
    for seed in search.study.seeds:
        overrides = (f"place={root}", *(f"{key}={word}" for key, word in params.items()), f"seed={seed}")
        digest = hashlib.sha256(repr(overrides).encode()).hexdigest()[:12]
        planned.append(Trial(POINT, seed, overrides, digest, root / POINT / f"seed_{seed}_{digest}"))
    return Plan(tuple(planned), ("score",), search.study.trial_timeout, {}, {})


def search_of(
    trials: int,
    *,
    seeds: tuple[int, ...] = (0,),
    pruning: bool = False,
    sampler: str = "random",
    space: Mapping[str, BaseDistribution] | None = None,
) -> Search:
    study = Study("mine", "?", (), {POINT: ()}, seeds, (Metric("score", "score"),), POINT, trial_timeout=60.0)
    space = {"behave": CategoricalDistribution(BEHAVIOURS)} if space is None else space
    return Search(study, space, trials, Sampler(sampler, 0, 4), pruning)


@contextlib.contextmanager
def searched(root: Path, search: Search, *behaviours: str) -> Iterator[optuna.Study]:
    """A study whose first points behave as told."""
    with opened(search, root=root, key="mine_0") as study:
        for behave in behaviours:
            study.enqueue_trial({"behave": behave})
        yield study


class Faked(Worker):
    """Trains nothing: the value of a point is its `x`."""

    def _train(self, trial: optuna.Trial, plan: Plan) -> float:
        trial.set_user_attr("status", "done")
        return float(trial.params["x"])


SPACE = {
    "behave": CategoricalDistribution(("value1", "value2")),
    "x": FloatDistribution(0.0, 1.0),
    "n": IntDistribution(2, 8, step=2),
    "lr": FloatDistribution(1e-4, 1e-2, log=True),
}


def command(study: optuna.Study, search: Search, root: Path, *, kind: type[Worker] = Worker) -> Worker:
    return kind(search, study, root=root, on_end=lambda study, trial: print_point(search, study, trial))


def run(study: optuna.Study, search: Search, root: Path, *, n_jobs: int = 1) -> list[FrozenTrial]:
    command(study, search, root).run(n_jobs=n_jobs)
    return tries(study)


def statuses(points: list[FrozenTrial]) -> list[str]:
    return [point.user_attrs["status"] for point in points]


def attempted(root: Path) -> int:
    return sum(len(attempts(folder)) for folder in (root / POINT).iterdir())


def die(study: optuna.Study) -> None:
    """Makes every heartbeat an hour old, as if its command had been killed then."""
    with sqlalchemy.create_engine(study._storage._backend.engine.url).begin() as file:  # type: ignore[attr-defined]
        file.execute(sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')"))


def test_failures_are_points_and_never_stop_the_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    behaviours = ("value1", "raise", "diverge", "kill", "bad", "value3", "value2")
    search = search_of(7)
    with searched(tmp_path, search, *behaviours) as study:
        points = run(study, search, tmp_path)
        assert statuses(points) == ["done", "failed", "diverged", "killed", "refused", "done", "done"]
        assert [point.value for point in points] == [1.0, None, None, None, None, 3.0, 2.0]
        assert [point.user_attrs["error"] for point in points[1:5]] == [
            "seed 0: DataError: no such folder",
            "seed 0: the loss of step 3 is not finite",
            "seed 0: killed by signal 9",
            "behave must be good, got 'bad'",
        ]
        said = capsys.readouterr().out
        assert "point 0: 1 (the best so far), 2 s, behave=value1" in said
        assert "point 2: diverged" in said and "point 5: 3 (the best so far)" in said and "point 6: 2, 2 s" in said
        # the same command again: the failed one fails again, the killed one goes on from its checkpoint
        again = run(study, search, tmp_path)
        assert statuses(again) == ["done", "failed", "diverged", "done", "refused", "done", "done"]
        assert again[3].value == 0.25 and "point 3: 0.25, " in capsys.readouterr().out
        assert [point.params for point in again] == [point.params for point in points]


def test_the_value_is_the_mean_over_seeds(tmp_path: Path) -> None:
    search = search_of(2, seeds=(0, 1, 2))
    with searched(tmp_path, search, "value2", "diverge_late") as study:
        good, bad = run(study, search, tmp_path)
        assert [good.user_attrs[f"value_seed_{seed}"] for seed in (0, 1, 2)] == [2.0, 2.1, 2.2]
        assert good.value == pytest.approx(2.1) and good.user_attrs["seconds"] == 6.0
        # the second seed ends it: the third is not trained
        assert (bad.user_attrs["status"], bad.user_attrs["value_seed_0"], bad.value) == ("diverged", 0.25, None)
        assert bad.user_attrs["error"].startswith("seed 1: ") and attempted(tmp_path) == 5


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_equal_points_share_their_training(tmp_path: Path, n_jobs: int) -> None:
    search = search_of(3)
    with searched(tmp_path, search, "value1", "value1", "value1") as study:
        points = run(study, search, tmp_path, n_jobs=n_jobs)
        assert [point.value for point in points] == [1.0, 1.0, 1.0] and attempted(tmp_path) == 1


def test_points_run_side_by_side(tmp_path: Path) -> None:
    search = search_of(2)
    with searched(tmp_path, search, "meet_a", "meet_b") as study:  # each waits for the other
        assert statuses(run(study, search, tmp_path, n_jobs=2)) == ["done", "done"]


@pytest.mark.parametrize(("n_jobs", "number"), [(1, signal.SIGTERM), (2, signal.SIGTERM), (1, signal.SIGINT)])
def test_an_interrupted_search_goes_on(tmp_path: Path, n_jobs: int, number: signal.Signals) -> None:
    search = search_of(3)

    def interrupt() -> None:
        while not list(tmp_path.glob(f"{POINT}/*/try_1/checkpoints/last.ckpt")):  # of the training that hangs
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with searched(tmp_path, search, "hang", "value1", "value2") as study:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as caught:
            run(study, search, tmp_path, n_jobs=n_jobs)
        assert number == signal.SIGINT or caught.value.code == 143  # type: ignore[attr-defined]
        assert signal.getsignal(number) == before
        (hanging,) = [point for point in tries(study) if point.params == {"behave": "hang"}]
        assert hanging.state == TrialState.WAITING  # its number is that of the thread that drew first
        found = [path.read_text() for path in tmp_path.glob(f"{POINT}/*/trial.json")]
        assert [json.loads(text)["status"] for text in found if "hang" in text] == ["interrupted"]
    with searched(tmp_path, search) as study:
        points = run(study, search, tmp_path, n_jobs=n_jobs)
        assert sorted((point.params["behave"], point.value) for point in points) == [
            ("hang", 0.25),
            ("value1", 1.0),
            ("value2", 2.0),
        ]


def test_a_point_whose_command_was_killed_is_taken_over_with_its_values(tmp_path: Path) -> None:
    search = search_of(4, space=SPACE)
    with searched(tmp_path / "whole", search) as study:
        command(study, search, tmp_path / "whole", kind=Faked).run(n_jobs=1)
        whole = [point.params for point in tries(study)]
    with searched(tmp_path, search) as study:
        dead = command(study, search, tmp_path, kind=Faked)
        with pytest.warns(UserWarning, match="supposed to be used with Study.optimize"):
            drawn = study.ask()
        dead._draw(drawn)  # the first heartbeat, and no other
        with pytest.warns(UserWarning, match="supposed to be used with Study.optimize"):
            study.ask()  # it died before it drew
        assert [point.state for point in tries(study)] == [TrialState.RUNNING]
        die(study)
        command(study, search, tmp_path, kind=Faked).run(n_jobs=1)
        assert [point.params for point in tries(study)] == whole
        assert all(point.state == TrialState.COMPLETE for point in tries(study))


def test_a_point_that_another_command_trains_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = search_of(2, space=SPACE)
    with searched(tmp_path, search) as one, searched(tmp_path, search) as other:
        monkeypatch.setattr(module, "GRACE", 0)  # how long a new command looks on; those opened above wait for 30 s
        with pytest.warns(UserWarning, match="supposed to be used with Study.optimize"):
            trial = one.ask()
        command(one, search, tmp_path)._draw(trial)

        def end_later() -> None:
            time.sleep(0.2)
            trial.set_user_attr("status", "done")
            one.tell(trial, 7.0)

        thread = threading.Thread(target=end_later)
        thread.start()
        command(other, search, tmp_path, kind=Faked).run(n_jobs=1)
        thread.join()
        assert [point.state for point in tries(other)] == [TrialState.COMPLETE] * 2 and tries(other)[0].value == 7.0


def test_a_try_whose_heartbeat_came_late_does_no_harm(tmp_path: Path) -> None:
    """As after a computer slept: another thread or command has given the point to a new try."""
    search = search_of(2, space=SPACE)

    class Late(Faked):
        def _train(self, trial: optuna.Trial, plan: Plan) -> float:
            if trial.number == 0:
                trial.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                module.queue_again(self.study, self._frozen(trial))
                return 0.5
            return super()._train(trial, plan)

    with searched(tmp_path, search) as study:
        command(study, search, tmp_path, kind=Late).run(n_jobs=1)
        assert [point.state for point in tries(study)] == [TrialState.COMPLETE] * 2
        assert [trial.state for trial in study.trials] == [TrialState.FAIL, *[TrialState.COMPLETE] * 2]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_an_interrupted_search_draws_what_it_would_have_drawn(tmp_path: Path, sampler: str) -> None:
    search = search_of(6, space=SPACE, sampler=sampler)
    with searched(tmp_path / "whole", search) as study:
        command(study, search, tmp_path / "whole", kind=Faked).run(n_jobs=1)
        whole = [point.params for point in tries(study)]
    for number in (2, 4, 6):
        with searched(tmp_path / "parts", search) as study:
            command(study, replace(search, trials=number), tmp_path / "parts", kind=Faked).run(n_jobs=1)
            parts = [point.params for point in tries(study)]
    assert parts == whole and len({str(params) for params in whole}) == 6
    for params in whole:
        assert 0 <= params["x"] <= 1 and 1e-4 <= params["lr"] <= 1e-2 and params["n"] in (2, 4, 6, 8)


def test_two_commands_share_the_points(tmp_path: Path) -> None:
    search = search_of(8, space=SPACE)
    with searched(tmp_path, search) as one, searched(tmp_path, search) as other:
        both = [command(study, search, tmp_path, kind=Faked) for study in (one, other)]
        with ThreadPoolExecutor(2) as pool:  # signals are for the main thread
            list(pool.map(lambda command: command._optimize(8, n_jobs=2), both))
        points = tries(one)
        assert [point.user_attrs["point"] for point in points] == list(range(8))
        assert all(point.state == TrialState.COMPLETE for point in points)
        assert sum(trial.state == TrialState.COMPLETE for trial in one.trials) == 8


def test_one_queued_try_goes_to_one_command(tmp_path: Path) -> None:
    search = search_of(1, space=SPACE)
    with searched(tmp_path, search) as one, searched(tmp_path, search) as other:
        for number in range(40):
            one.enqueue_trial({"x": number / 40})

        def take(study: optuna.Study) -> list[int]:
            taken = []
            while (number := study._pop_waiting_trial_id()) is not None:
                taken.append(number)
            return taken

        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(take, (one, other))
        assert len(first) + len(second) == 40 and not set(first) & set(second)


def test_a_training_that_outlived_its_search_is_waited_for(tmp_path: Path) -> None:
    search = search_of(1)
    with searched(tmp_path, search, "value1") as study:
        (trial,) = plan_point(search, {"behave": "value1"}, root=tmp_path).trials
        trial.folder.mkdir(parents=True)
        (trial.folder / "trial.json").write_text(
            json.dumps({"status": "running", "error": "", "seconds": 0.0, "run": "try_1"})
        )
        lock = contextlib.ExitStack()
        assert lock.enter_context(try_lock(trial.folder / ".lock")) is not None

        def end_later() -> None:
            time.sleep(0.3)
            (trial.folder / "try_1").mkdir()
            record = {"status": "done", "metrics": {"score": 7.0}, "seconds": 1.0, "error": None}
            (trial.folder / "try_1" / "run.json").write_text(json.dumps(record))
            lock.close()

        threading.Thread(target=end_later, daemon=True).start()
        (point,) = run(study, search, tmp_path)
        assert (point.value, attempted(tmp_path)) == (7.0, 1)


def test_a_point_below_the_median_is_given_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = search_of(6, seeds=(0, 1), pruning=True)
    good = ("value1", "value2", "value3", "value1", "value2")
    with searched(tmp_path, search, *good, "hang") as study:  # 0.1 at its first step, the others 0.5
        points = run(study, search, tmp_path)
        assert statuses(points) == ["done"] * 5 + ["pruned"]
        said = capsys.readouterr().out
        assert "point 5: pruned" in said and "below the median at step 9" in said
    off = replace(search, pruning=False, trials=1)
    with searched(tmp_path / "off", off, "value1") as study:
        run(study, off, tmp_path / "off")
        assert study.trials[0].intermediate_values == {}


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_fault_of_ours_ends_all_and_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_jobs: int) -> None:
    def broken(*_: object, **__: object) -> Plan:
        raise RuntimeError("ours")

    monkeypatch.setattr(module, "plan_point", broken)
    search = search_of(4)
    with searched(tmp_path, search) as study, pytest.raises(RuntimeError, match="ours"):
        run(study, search, tmp_path, n_jobs=n_jobs)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "search.db").write_text("no database" * 100)
    broken = r"search\.db cannot be used as the database of a search \(.*\); move it away"
    with pytest.raises(DataError, match=broken), searched(tmp_path, search_of(1)):
        pass
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match=r"^paths\.log_dir: .*file cannot be written"),
        searched(tmp_path / "file", search_of(1)),
    ):
        pass


def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    folder = tmp_path / "a b%20?#{c}"
    with searched(folder, search_of(1)):
        assert (folder / "search.db").stat().st_size > 0


def test_one_at_a_time(tmp_path: Path) -> None:
    order = []
    with locked(tmp_path):
        other = threading.Thread(target=lambda: enter("other"))

        def enter(name: str) -> None:
            with locked(tmp_path):
                order.append(name)

        other.start()
        time.sleep(0.1)
        order.append("first")
    other.join()
    assert order == ["first", "other"]
