"""Running of the trials of a plan with a Hydra launcher, and display of their states."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from limoe.config.overrides import quoted
from limoe.config.places import RUN_ID
from limoe.reporting.findings import duration, number
from limoe.runs.folder import last_logged
from limoe.studies.plan import Plan
from limoe.studies.trial import DONE, PENDING, RUNNING, STOPPED, State, attempts, last_message, read_state

_REFRESH = 2.0  # seconds
_COLORS = {DONE: "green", STOPPED: "green", RUNNING: "cyan", PENDING: "dim"}


def run_sweep(plan: Plan, *, folder: Path, launcher: Sequence[str], console: Console) -> list[State]:
    """Run the unfinished trials and return the state of every trial.

    `launcher` are Hydra's overrides for the launcher; `folder` gets the plan and the launcher's log.
    """
    states = [read_state(trial) for trial in plan.trials]
    todo = [number for number, state in enumerate(states) if not state.finished]
    if not todo:
        return states
    folder.mkdir(parents=True, exist_ok=True)
    name = f"sweep_{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}"
    plan_file = folder / f"{name}.json"
    plan.save(plan_file)
    numbers = ",".join(map(str, todo))
    command = [sys.executable, "-m", "limoe", "trial", "--multirun", f"plan={quoted(plan_file)}", f"index={numbers}"]
    command += [f"hydra.sweep.dir={quoted(folder / name)}", *launcher]
    with (folder / f"{name}.log").open("w", encoding="utf-8") as log:
        environment = {key: value for key, value in os.environ.items() if key != RUN_ID}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            _watch(plan, states, lambda: process.poll() is None, console=console)
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
    states = [read_state(trial) for trial in plan.trials]
    if process.returncode != 0 and any(state.status == PENDING for state in states):
        reason = last_message(folder / f"{name}.log")
        where = f"{folder / name}.log"
        console.print(f"the launcher ended early (exit code {process.returncode}): {reason} ({where})", markup=False)
    return states


def status_table(plan: Plan, states: Sequence[State]) -> Table:
    """Status, steps, time and last value of the first metric of the trials, one row each."""
    key = next(iter(plan.metrics), "")
    table = Table("variant", "seed", "status", "step", "time", key.rpartition("/")[2] or "metric", "note")
    for trial, state in zip(plan.trials, states, strict=True):
        steps = plan.max_steps[trial.variant]
        done = max((last_logged(run)[0] for run in attempts(trial.folder)), default=0)
        step = "" if state.run is None else f"{done:,} / {steps:,}"
        status = Text(state.status, style=_COLORS.get(state.status, "red"))
        note = Text(state.error, overflow="ellipsis", no_wrap=True)
        _, value = _measured(state, key)
        shown = number(key, value) if math.isfinite(value) else ""
        table.add_row(trial.variant, str(trial.seed), status, step, duration(state.seconds or None), shown, note)
    return table


def _measured(state: State, key: str) -> tuple[int, float]:
    """(step, value) of the last validation of a trial that logged the metric; (0, NaN) without one."""
    return (0, math.nan) if state.run is None or not key else last_logged(state.run, key)


def _watch(plan: Plan, states: list[State], is_running: Callable[[], bool], *, console: Console) -> None:
    """Until no trial runs show a live table in a terminal, elsewhere a line per validation and change of state."""
    validated = dict.fromkeys(range(len(states)), 0)
    with Live(console=console, auto_refresh=False, transient=True, vertical_overflow="visible") as live:
        running = True
        while running:
            running = is_running()
            now = [read_state(trial) for trial in plan.trials]
            if console.is_terminal:
                live.update(status_table(plan, now), refresh=True)
            else:
                _print_changes(plan, states, now, validated, console=console)
            states = now
            if running:
                time.sleep(_REFRESH)


def _print_changes(
    plan: Plan, before: Sequence[State], now: Sequence[State], validated: dict[int, int], *, console: Console
) -> None:
    """Print what changed; `validated` holds the step of the last printed validation by trial and is updated."""
    key = next(iter(plan.metrics), "")
    for place, (trial, old, new) in enumerate(zip(plan.trials, before, now, strict=True)):
        name = f"{trial.variant} seed {trial.seed}"
        step, value = (0, math.nan) if new.status == old.status != RUNNING else _measured(new, key)
        if step > validated[place]:
            validated[place] = step
            done = f"{name}: step {step:,} / {plan.max_steps[trial.variant]:,}, {key.rpartition('/')[2]}"
            console.print(f"{done} {number(key, value)}", markup=False, soft_wrap=True)
        if new.status != old.status:
            note = f": {new.error}" if new.error else ""
            console.print(f"{name}: {new.status}{note}", markup=False, soft_wrap=True)
