"""Trains the points of a search, some of them side by side: one thread each, which watches the processes it started."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from limoe.errors import ConfigError
from limoe.reporting.findings import duration, number
from limoe.reporting.run_folder import read_run
from limoe.search.plan import plan_point
from limoe.search.points import DONE, PRUNED, REFUSED, RUNNING, Outcome, Point, best_of
from limoe.search.spec import Search
from limoe.search.store import Claim, Store
from limoe.studies.trial import State, Trial, read_state, run_trial

_LOOK = 1.0  # seconds between two looks at a training that runs elsewhere
_composing = threading.Lock()  # Hydra composes one config at a time


class Stopped(Exception):
    """The command was interrupted: trainings save and end, and their points stay `running` for the next command."""


class GivenUp(Exception):
    """A point's curve is below the median."""


def run_points(search: Search, store: Store, *, root: Path, n_jobs: int, console: Console) -> None:
    """Train points until there are as many as the search asks for. A point that fails never stops the others."""
    stop = threading.Event()
    progress = _progress(console)
    with _sigterm_raises(), progress, ThreadPoolExecutor(n_jobs) as pool:
        task = progress.add_task("points", total=search.trials)

        def say(point: Point | None = None) -> None:
            points = store.points()
            if point is not None:
                progress.console.print(_line(search, point, best=best_of(search, points)), soft_wrap=True)
            progress.update(task, completed=sum(other.ended for other in points))

        say()
        jobs = [pool.submit(_work, search, store, root=root, stop=stop, say=say) for _ in range(n_jobs)]
        try:
            _wait(jobs)
        except BaseException:
            stop.set()
            raise


def _work(search: Search, store: Store, *, root: Path, stop: threading.Event, say: Callable[[Point], None]) -> None:
    with contextlib.suppress(Stopped):
        while not stop.is_set():
            with store.take() as claim:
                if claim is None:
                    return
                say(store.finish(claim, train(claim, search, store, root=root, stop=stop)))


def train(claim: Claim, search: Search, store: Store, *, root: Path, stop: threading.Event) -> Outcome:
    """All seeds of a point, one after the other; the first one without a value ends it.

    Raises:
        Stopped: `stop` was set.
    """
    try:
        with _composing:
            plan = plan_point(search, claim.words, root=root)
    except ConfigError as error:
        return Outcome(REFUSED, str(error))
    store.begin(claim, {trial.seed: trial.config_hash for trial in plan.trials})
    key, seconds = search.metric.key, 0.0
    values: dict[int, float] = {}
    for trial in plan.trials:
        judged = search.pruning and trial == plan.trials[0]

        def watch(run: Path, *, judged: bool = judged) -> None:
            if stop.is_set():
                raise Stopped
            if judged and (step := store.report(claim, _curve(run, key))) is not None:
                raise GivenUp(f"below the median at step {step:,}")

        try:
            state = _to_its_end(trial, key=key, timeout=plan.timeout, watch=watch, stop=stop)
        except GivenUp as error:
            return Outcome(PRUNED, str(error), seconds + read_state(trial).seconds, values)
        seconds += state.seconds
        if not state.finished or state.run is None:
            return Outcome(state.status, f"seed {trial.seed}: {state.error}", seconds, values)
        if judged:
            store.report(claim, _curve(state.run, key))  # what later points are compared with
        values[trial.seed] = read_run(state.run).metrics[key]
    return Outcome(DONE, "", seconds, values)


def _to_its_end(
    trial: Trial, *, key: str, timeout: float | None, watch: Callable[[Path], None], stop: threading.Event
) -> State:
    """Also where another command, or one that died, has the training."""
    while (state := run_trial(trial, metrics=[key], timeout=timeout, watch=watch)).status == RUNNING:
        if stop.wait(_LOOK):
            raise Stopped
    return state


def _curve(run: Path, key: str) -> Mapping[int, float]:
    """The metric by step, as far as it is logged."""
    return read_run(run).curves.get(key, {}) if (run / "csv" / "metrics.csv").is_file() else {}


def _wait(jobs: list[Future[Any]]) -> None:
    """Until all have ended, or one has raised, which is raised here."""
    running = set(jobs)
    while running:
        ended, running = wait(running, timeout=1.0, return_when=FIRST_EXCEPTION)
        for job in ended:
            job.result()


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    def terminate(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _line(search: Search, point: Point, *, best: Point | None) -> Text:
    """What the terminal says when a point has ended."""
    key = search.metric.key
    said = point.status if point.value is None else number(key, point.value)
    if best is not None and best.number == point.number:
        said += " (the best so far)"
    took = duration(point.outcome.seconds or None)
    note = f": {point.outcome.error}" if point.outcome.error else ""
    return Text(f"point {point.number}: {said}{f', {took}' if took else ''}, {' '.join(point.overrides)}{note}")
