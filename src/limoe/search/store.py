"""The points of a search in an SQLite file: what optuna proposes, who trains it, how it ended.

All reading and writing happens behind one lock, so that any number of threads and commands share the file. Who trains
a point holds the lock of that point: one that is `running` while nobody holds its lock was left behind by a command
that died, and is taken up before a new one is drawn. What optuna draws depends on the number of the point and on what
the file holds, not on the command, so an interrupted search goes on as it would have.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from limoe.errors import ConfigError, DataError, one_line
from limoe.search.locks import locked, try_lock
from limoe.search.points import DONE, PRUNED, RETRIED, RUNNING, WAITING, Outcome, Point
from limoe.search.space import Range
from limoe.search.spec import Sampler, Search

try:
    import optuna
    from optuna.trial import FrozenTrial, TrialState
    from sqlalchemy import URL
    from sqlalchemy.exc import SQLAlchemyError
except ImportError as error:
    raise ConfigError("a search needs the package optuna: pip install 'limoe[tune]'") from error

FILE = "search.db"
_PATIENCE = 60  # seconds to wait for a database that another program holds
_RETRIES = "retries"  # number of the failed point that this one repeats


@dataclass(frozen=True)
class Claim:
    """A point that this thread trains."""

    number: int
    words: dict[str, str]
    trial: optuna.Trial


class Store:
    """The points of one search below `root`.

    `key` says what makes values comparable; another key begins anew in the same file.

    Raises:
        ConfigError: `root` cannot be written.
        DataError: the file cannot be read as a database of optuna.
    """

    def __init__(self, root: Path, *, key: str, search: Search) -> None:
        self.search, self.key = search, key
        self._locks = root / "locks"
        try:
            self._locks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"paths.log_dir: {root} cannot be written: {error.strerror}") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._alone():
            self._storage, self._study = _open(root / FILE, key=key, search=search)

    def close(self) -> None:
        self._storage.remove_session()
        self._storage.engine.dispose()

    @contextlib.contextmanager
    def take(self) -> Iterator[Claim | None]:
        """A point to train: one left behind, one to try again, a new one; None where there are `trials` of them."""
        with contextlib.ExitStack() as stack:
            with self._alone():
                trial = self._left_behind(stack) or self._next(stack)
                claim = None if trial is None else self._claim(trial)
            yield claim

    def begin(self, claim: Claim, hashes: Mapping[int, str]) -> None:
        """Write down which configs the point trains."""
        with self._alone():
            claim.trial.set_user_attr("hashes", {str(seed): digest for seed, digest in hashes.items()})

    def report(self, claim: Claim, curve: Mapping[int, float]) -> int | None:
        """Tell the values of the metric by step; the first new one at which the point is below the median, if any."""
        below = []
        with self._alone():
            known = self._study.get_trials(deepcopy=False)[claim.number].intermediate_values
            for step in sorted(curve.keys() - known.keys()):
                claim.trial.report(curve[step], step)
                if claim.trial.should_prune():
                    below.append(step)
        return min(below, default=None)

    def finish(self, claim: Claim, outcome: Outcome) -> Point:
        """Write down how a point ended."""
        state = {DONE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED}.get(outcome.status, TrialState.FAIL)
        value = fmean(outcome.values.values()) if state == TrialState.COMPLETE else None
        with self._alone():
            claim.trial.set_user_attr("outcome", asdict(outcome))
            return self._point(self._study.tell(claim.trial, value, state=state))

    def retry(self) -> int:
        """Queue the failed points that are worth another try; how many there are."""
        with self._alone():
            failed = [trial for trial in self._trials() if self._point(trial).status in RETRIED]
            for trial in failed:
                self._study.enqueue_trial(trial.params, user_attrs={_RETRIES: trial.number})
        return len(failed)

    def points(self) -> list[Point]:
        """In the order in which they were drawn, each one in its last try."""
        with self._alone():
            return [self._point(trial) for trial in self._trials()]

    def importances(self) -> dict[str, float]:
        """Share of each parameter in what sets the best points apart (PED-ANOVA); empty where too few points have
        values to say."""
        with self._alone():
            n = sum(trial.state == TrialState.COMPLETE for trial in self._trials())
            if n < 4 or len(self.search.space) < 2:
                return {}
            best = max(0.1, min(0.5, 5 / n))
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=best)
            return optuna.importance.get_param_importances(self._study, evaluator=evaluator)

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return locked(self._locks / "search.lock")

    def _place(self, number: int) -> Path:
        return self._locks / f"{self.key}_{number}.lock"

    def _trials(self) -> list[FrozenTrial]:
        """Without those that have been tried again."""
        trials = self._study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get(_RETRIES) for trial in trials}
        return [trial for trial in trials if trial.number not in again]

    def _left_behind(self, stack: contextlib.ExitStack) -> optuna.Trial | None:
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if (file := try_lock(self._place(trial.number))) is not None:
                stack.enter_context(file)
                study_id = self._storage.get_study_id_from_name(self.key)
                trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
                return optuna.Trial(self._study, trial_id)
        return None

    def _next(self, stack: contextlib.ExitStack) -> optuna.Trial | None:
        trials = self._trials()
        if len(trials) >= self.search.trials and all(trial.state != TrialState.WAITING for trial in trials):
            return None
        trial = self._study.ask()
        file = try_lock(self._place(trial.number))
        assert file is not None
        stack.enter_context(file)
        return trial

    def _claim(self, trial: optuna.Trial) -> Claim:
        """Draws what the point has no value of yet."""
        self._study.sampler = _sampler(self.search.sampler, number=trial.number)
        words = {}
        for key, parameter in self.search.space.items():
            drawn: Any
            if not isinstance(parameter, Range):
                drawn = trial.suggest_categorical(key, parameter.words)
            elif parameter.is_whole:
                step = {} if parameter.step is None else {"step": int(parameter.step)}
                drawn = trial.suggest_int(key, int(parameter.low), int(parameter.high), log=parameter.log, **step)
            else:
                drawn = trial.suggest_float(key, parameter.low, parameter.high, log=parameter.log, step=parameter.step)
            words[key] = parameter.word(drawn)
        return Claim(trial.number, words, trial)

    def _point(self, trial: FrozenTrial) -> Point:
        space = self.search.space
        words = {key: space[key].word(value) for key, value in trial.params.items()}
        hashes = {int(seed): digest for seed, digest in trial.user_attrs.get("hashes", {}).items()}
        if not trial.state.is_finished():
            status = WAITING if trial.state == TrialState.WAITING else RUNNING
            return Point(trial.number, words, hashes, Outcome(status))
        content = trial.user_attrs["outcome"]
        outcome = Outcome(**content | {"values": {int(seed): value for seed, value in content["values"].items()}})
        value = trial.value if trial.state == TrialState.COMPLETE else None
        return Point(trial.number, words, hashes, outcome, value)


def _open(path: Path, *, key: str, search: Search) -> tuple[optuna.storages.RDBStorage, optuna.Study]:
    place = URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    place = place.replace("{", "{{").replace("}", "}}")  # optuna fills in its own fields
    try:
        storage = optuna.storages.RDBStorage(place, engine_kwargs={"connect_args": {"timeout": _PATIENCE}})
        study = optuna.create_study(
            storage=storage,
            study_name=key,
            direction="maximize" if search.metric.higher else "minimize",
            pruner=optuna.pruners.MedianPruner() if search.pruning else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
    except (SQLAlchemyError, RuntimeError, optuna.exceptions.OptunaError) as error:
        said = one_line(str(error).partition("\n")[0])
        raise DataError(f"{path} cannot be used as the database of a search ({said}); move it away") from error
    return storage, study


def _sampler(settings: Sampler, *, number: int) -> optuna.samplers.BaseSampler:
    """Its numbers begin anew with every point: those of a search that was interrupted do not repeat themselves."""
    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
    if settings.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=settings.startup)
