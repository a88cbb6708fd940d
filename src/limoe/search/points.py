"""The points of a search: optuna draws them, `limoe.studies.trial` trains them.

Every try of a point is a trial of one optuna study in an SQLite file. Its user attribute `point` is the number of the
point, written once all values are drawn: a trial without it is no point. optuna queues a try whose command died (no
heartbeat for `GRACE` seconds) again, with the values it had.
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
RETRIED = (FAILED, KILLED, TIMEOUT, INTERRUPTED)  # their end may lie in the machine: the next command tries again
HEARTBEAT, GRACE = 5, 30  # seconds between two heartbeats of a try, and without one until its command counts as dead
_LOOK = 1.0  # seconds between two looks at what another command does
_LATE = ("Cannot tell a FAIL trial.", "Should not reach.")  # by optuna, where a heartbeat came late: it has another try


@contextlib.contextmanager
def opened(search: Search, *, root: Path, key: str) -> Iterator[optuna.Study]:
    """The study `key` in `root`/search.db.

    Raises:
        ConfigError: `root` cannot be written.
        DataError: the file cannot be read as a database of optuna.
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
            with alone(root):
                storage = optuna.storages.RDBStorage(
                    url,
                    {"connect_args": {"timeout": 60}},  # seconds to wait for another writer
                    heartbeat_interval=HEARTBEAT,
                    grace_period=GRACE,
                    heartbeat_stale_trial_callback=queue_again,
                )
                stack.callback(storage.engine.dispose)
                # transactions lock the file before they read: otherwise two commands may take the same queued try
                event.listen(storage.engine, "connect", lambda file, _: setattr(file, "isolation_level", None))
                event.listen(storage.engine, "begin", lambda file: file.exec_driver_sql("BEGIN IMMEDIATE"))
                storage.engine.dispose()
                study = optuna.create_study(
                    storage=storage, pruner=pruner, study_name=key, direction=search.direction, load_if_exists=True
                )
        except OSError as error:
            raise ConfigError(f"paths.log_dir: {root} cannot be written: {error.strerror}") from error
        except (SQLAlchemyError, RuntimeError, optuna.exceptions.OptunaError) as error:
            said = one_line(str(error).partition("\n")[0])
            raise DataError(f"{path} cannot be used as the database of a search ({said}); move it away") from error
        yield study


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """One thread of one command at a time."""
    with (root / "search.lock").open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def queue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """A new try of a point, with its values and its curve."""
    optuna.storages.RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


def tries(study: optuna.Study) -> list[FrozenTrial]:
    """Of each point its last try, or the one that has a value."""
    last: dict[int, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        point = trial.user_attrs.get("point")
        if point is not None and (point not in last or last[point].state != TrialState.COMPLETE):
            last[point] = trial
    return [last[point] for point in sorted(last)]


class Stopped(Exception):
    """The command was interrupted: trainings save and end, and their points are queued again."""


class Worker:
    """One command that trains points of `study`; others may train some at the same time. `say` sees ended trials."""

    def __init__(
        self, search: Search, study: optuna.Study, *, root: Path, say: Callable[[optuna.Study, FrozenTrial], None]
    ) -> None:
        self.search = search
        self.study = study
        self.root = root
        self.say = say
        self.stop = threading.Event()
        self.cause: BaseException = SystemExit(128 + signal.SIGTERM)

    def run(self, *, n_jobs: int) -> None:
        """Train, `n_jobs` points side by side, until all have ended, those of other commands too."""
        with alone(self.root):
            for trial in tries(self.study):
                if trial.state == TrialState.FAIL and trial.user_attrs["status"] in RETRIED:
                    queue_again(self.study, trial)
        if any(trial.state == TrialState.RUNNING for trial in tries(self.study)):
            print(f"Some points are under way. {GRACE} s will tell whether their commands still live.")
        known = time.monotonic() + GRACE + 2 * _LOOK  # from then on a try that runs has a command that lives
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
            self.study.optimize(self.objective, left, n_jobs=n_jobs, callbacks=[self.say], show_progress_bar=bar)
        except (ValueError, AssertionError) as error:
            if str(error) not in _LATE:
                raise

    def objective(self, trial: optuna.Trial) -> float:
        """The value of a point; nan, which optuna counts as failed, where it has none."""
        try:
            if self.stop.is_set():
                raise Stopped
            plan = self._draw(trial)
            return math.nan if plan is None else self._train(trial, plan)
        except optuna.TrialPruned:
            raise
        except optuna.exceptions.UpdateFinishedTrialError:  # a heartbeat came late, and the point has another try
            return math.nan
        except (Stopped, SystemExit):
            queue_again(self.study, self._frozen(trial))
        except BaseException as error:  # a fault of ours ends the command
            self.cause = error
        self.stop.set()
        self.study.stop()
        return math.nan

    def _draw(self, trial: optuna.Trial) -> Plan | None:
        """The trainings of a point; None where there are enough points, or where the config refuses this one."""
        storage: Any = trial.storage
        storage.record_heartbeat(trial._trial_id)  # optuna waits for ever for a dead command without any
        with alone(self.root):
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
        """The mean over the seeds, one after the other; the first one without a value ends the point."""
        key, values, seconds = self.search.metric.key, [], 0.0
        for training in plan.trials:
            judged = self.search.pruning and training == plan.trials[0]

            def watch(run: Path, *, judged: bool = judged) -> None:
                if self.stop.is_set():
                    raise Stopped
                if judged and (step := self._report(trial, run)) is not None:
                    raise optuna.TrialPruned(f"below the median at step {step:,}")

            try:
                train = functools.partial(run_trial, training, metrics=[key], timeout=plan.timeout, watch=watch)
                while (state := train()).status == RUNNING:  # elsewhere, perhaps for a command that died
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
                self._report(trial, state.run)  # what later points are compared with
            values.append(read_run(state.run).metrics[key])
            self._note(trial, **{f"value_seed_{training.seed}": values[-1]})
        self._note(trial, status=DONE, seconds=seconds)
        return fmean(values)

    def _report(self, trial: optuna.Trial, run: Path) -> int | None:
        """Tell optuna the metric by step; the first new step at which the point is below the median, if any."""
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
        """Ctrl-C and SIGTERM let the trainings save; a second one ends the command at once."""

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
    """Its numbers begin anew with every point: those of a search that was interrupted do not repeat themselves."""
    seed = int(np.random.SeedSequence([search.sampler.seed, point]).generate_state(1)[0])
    if search.sampler.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.sampler.startup)


def suggested(trial: optuna.Trial, key: str, values: Any) -> Any:
    """What optuna proposes for one parameter of the space."""
    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(key, values.choices)
    if isinstance(values, IntDistribution):
        return trial.suggest_int(key, values.low, values.high, step=values.step, log=values.log)
    return trial.suggest_float(key, values.low, values.high, step=values.step, log=values.log)
