"""The points of a search, drawn by optuna and trained by `limoe.studies.trial`.

Every try of a point is a trial of one optuna study in an SQLite file. Its user attribute `point` is the number of the
point, written after all values are drawn: a trial without it is no point. A try without a heartbeat for `GRACE` seconds
(its command died) is queued again by optuna, with the same values.
"""

import contextlib
import fcntl
import functools
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL, event
from sqlalchemy.exc import SQLAlchemyError

from limoe.errors import ConfigError, DataError, one_line
from limoe.runs.folder import read_run
from limoe.search.space import Search, plan_point
from limoe.studies.plan import Plan
from limoe.studies.trial import DONE, FAILED, INTERRUPTED, KILLED, RUNNING, TIMEOUT, read_state, run_trial

PRUNED, REFUSED = "pruned", "refused"
RETRIED = (FAILED, KILLED, TIMEOUT, INTERRUPTED)  # may be due to the machine: the next command tries them again
HEARTBEAT, GRACE = 5, 30  # seconds between two heartbeats of a try, and without one until its command counts as dead
_LOOK = 1.0  # seconds between two checks of the state of other commands
_LATE = ("Cannot tell a FAIL trial.", "Should not reach.")  # optuna's errors after a late heartbeat


@contextlib.contextmanager
def opened(search: Search, *, root: Path, key: str) -> Iterator[optuna.Study]:
    """Open or create the optuna study `key` in `root`/search.db.

    Raises `ConfigError` if `root` cannot be written, `DataError` if the file cannot be read as a database of optuna.
    """
    path = root / "search.db"
    url = URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    url = url.replace("{", "{{").replace("}", "}}")  # optuna fills in its own fields
    pruner = optuna.pruners.MedianPruner() if search.pruning else optuna.pruners.NopPruner()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with contextlib.ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            experimental = optuna.exceptions.ExperimentalWarning
            stack.enter_context(warnings.catch_warnings(action="ignore", category=experimental))
            with locked(root):
                storage = optuna.storages.RDBStorage(
                    url,
                    {"connect_args": {"timeout": 60}},  # seconds to wait for another writer
                    heartbeat_interval=HEARTBEAT,
                    grace_period=GRACE,
                    heartbeat_stale_trial_callback=queue_again,
                )
                stack.callback(storage.engine.dispose)
                # transactions lock the file before they read, or two commands may take the same queued try
                event.listen(storage.engine, "connect", lambda file, _: setattr(file, "isolation_level", None))
                event.listen(storage.engine, "begin", lambda file: file.exec_driver_sql("BEGIN IMMEDIATE"))
                storage.engine.dispose()
                study = optuna.create_study(
                    storage=storage, pruner=pruner, study_name=key, direction=search.direction, load_if_exists=True
                )
        except OSError as error:
            raise ConfigError(f"paths.log_dir: {root} cannot be written: {error.strerror}") from error
        except (SQLAlchemyError, RuntimeError, optuna.exceptions.OptunaError) as error:
            reason = one_line(str(error).partition("\n")[0])
            raise DataError(f"{path} cannot be used as the database of a search ({reason}); move it away") from error
        yield study


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Exclude all other threads and commands of the search inside the block."""
    with (root / "search.lock").open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def queue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a new try of a point, with its values and its curve."""
    optuna.storages.RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


def tries(study: optuna.Study) -> list[FrozenTrial]:
    """The last try of each point, or the complete one."""
    last: dict[int, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        point = trial.user_attrs.get("point")
        if point is not None and (point not in last or last[point].state != TrialState.COMPLETE):
            last[point] = trial
    return [last[point] for point in sorted(last)]


class Stopped(Exception):
    """Raised after an interrupt: trainings save and end, and their points are queued again."""


@dataclass
class Worker:
    """Training of points of `study` by one command, beside others. `on_end` is called with each ended trial."""

    search: Search
    study: optuna.Study
    _: KW_ONLY
    root: Path
    on_end: Callable[[optuna.Study, FrozenTrial], None]

    def __post_init__(self) -> None:
        self.stop = threading.Event()
        self.cause: BaseException = SystemExit(128 + signal.SIGTERM)

    def run(self, *, n_jobs: int) -> None:
        """Train `n_jobs` points in parallel until all have ended, those of other commands too."""
        with locked(self.root):
            for trial in tries(self.study):
                if trial.state == TrialState.FAIL and trial.user_attrs["status"] in RETRIED:
                    queue_again(self.study, trial)
        if any(trial.state == TrialState.RUNNING for trial in tries(self.study)):
            print(f"Some points are running; waiting {GRACE} s to see if their commands are alive.")
        known = time.monotonic() + GRACE + 2 * _LOOK  # after this time every running try has a live command
        with self._signals():
            while not self.stop.is_set():
                optuna.storages.fail_stale_trials(self.study)
                states = [trial.state for trial in tries(self.study)]
                left = max(0, self.search.trials - len(states)) + states.count(TrialState.WAITING)
                if TrialState.RUNNING in states and (left == 0 or time.monotonic() < known):
                    self.stop.wait(_LOOK)
                elif left > 0:
                    self._optimize(left, n_jobs=n_jobs)
                else:
                    return
        raise self.cause

    def _optimize(self, left: int, *, n_jobs: int) -> None:
        bar = sys.stderr.isatty()
        try:
            self.study.optimize(self.objective, left, n_jobs=n_jobs, callbacks=[self.on_end], show_progress_bar=bar)
        except (ValueError, AssertionError) as error:
            if str(error) not in _LATE:
                raise

    def objective(self, trial: optuna.Trial) -> float:
        """The value of a point; NaN without one, which optuna counts as failed."""
        try:
            if self.stop.is_set():
                raise Stopped
            plan = self._draw(trial)
            return math.nan if plan is None else self._train(trial, plan)
        except optuna.TrialPruned:
            raise
        except optuna.exceptions.UpdateFinishedTrialError:  # after a late heartbeat the point has another try
            return math.nan
        except (Stopped, SystemExit):
            queue_again(self.study, self._frozen(trial))
        except BaseException as error:  # a bug in limoe ends the command
            self.cause = error
        self.stop.set()
        self.study.stop()
        return math.nan

    def _draw(self, trial: optuna.Trial) -> Plan | None:
        """The trainings of a point; None if there are enough points, or its values are refused."""
        storage: Any = trial.storage
        storage.record_heartbeat(trial._trial_id)  # optuna never fails a running trial without any heartbeat
        with locked(self.root):
            point = trial.user_attrs.get("point", len(tries(self.study)))
            if "point" not in trial.user_attrs and point >= self.search.trials:
                self.study.stop()
                return None
            self.study.sampler = sampler_of(self.search, point)
            params = {key: suggested(trial, key, values) for key, values in self.search.space.items()}
            self._note(trial, status=INTERRUPTED, error="", point=point)
            try:
                plan = plan_point(self.search, params, root=self.root)
            except ConfigError as error:
                self._note(trial, status=REFUSED, error=str(error))
                return None
        self._note(trial, **{f"hash_seed_{training.seed}": training.config_hash for training in plan.trials})
        return plan

    def _train(self, trial: optuna.Trial, plan: Plan) -> float:
        """The mean value over the seeds, trained in order; the first one without a value ends the point."""
        key = self.search.metric.key
        values = []
        seconds = 0.0
        for training in plan.trials:
            judged = self.search.pruning and training == plan.trials[0]

            def watch(run: Path, *, judged: bool = judged) -> None:
                if self.stop.is_set():
                    raise Stopped
                if judged and (step := self._report(trial, run)) is not None:
                    raise optuna.TrialPruned(f"below the median at step {step:,}")

            try:
                train = functools.partial(run_trial, training, metrics=[key], timeout=plan.timeout, watch=watch)
                while (state := train()).status == RUNNING:  # in another process, maybe that of a dead command
                    if self.stop.wait(_LOOK):
                        raise Stopped
            except optuna.TrialPruned as error:
                self._note(trial, status=PRUNED, error=str(error), seconds=seconds + read_state(training).seconds)
                raise
            seconds += state.seconds
            if not state.finished or state.run is None:
                self._note(trial, status=state.status, error=f"seed {training.seed}: {state.error}", seconds=seconds)
                return math.nan
            if judged:
                self._report(trial, state.run)  # for the median that later points are compared with
            values.append(read_run(state.run).metrics[key])
            self._note(trial, **{f"value_seed_{training.seed}": values[-1]})
        self._note(trial, status=DONE, seconds=seconds)
        return fmean(values)

    def _report(self, trial: optuna.Trial, run: Path) -> int | None:
        """Report the metric by step to optuna; return the first new step at which the point is below the median."""
        if not (run / "csv" / "metrics.csv").is_file():
            return None
        curve = read_run(run).curves.get(self.search.metric.key, {})
        below = []
        for step in sorted(curve.keys() - self._frozen(trial).intermediate_values.keys()):
            trial.report(curve[step], step)
            if trial.should_prune():
                below.append(step)
        return min(below, default=None)

    def _frozen(self, trial: optuna.Trial) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[trial.number]

    def _note(self, trial: optuna.Trial, **attributes: Any) -> None:
        for key, value in attributes.items():
            trial.set_user_attr(key, value)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """On Ctrl-C or SIGTERM stop after the trainings have saved; a second one ends the command at once."""

        def note(number: int, _: Any) -> None:
            self.cause = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
            self.stop.set()
            signal.signal(number, before[number])

        before: dict[int, Any] = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def sampler_of(search: Search, point: int) -> optuna.samplers.BaseSampler:
    """Sampler with a seed of its own for every point, so that a resumed search does not repeat draws."""
    seed = int(np.random.SeedSequence([search.sampler.seed, point]).generate_state(1)[0])
    if search.sampler.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.sampler.startup)


def suggested(trial: optuna.Trial, key: str, values: Any) -> Any:
    """Optuna's proposal for one parameter of the space."""
    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(key, values.choices)
    if isinstance(values, IntDistribution):
        return trial.suggest_int(key, values.low, values.high, step=values.step, log=values.log)
    return trial.suggest_float(key, values.low, values.high, step=values.step, log=values.log)
