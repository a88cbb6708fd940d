"""One trial: one training in its own process.

A failure, hang or crash of one trial does not affect the others. A trial's folder is
`<study>/<variant>/seed_<n>_<config hash>/`: results of different configs are never mixed. Each attempt to run it has
its own run folder `try_<i>` inside; a new attempt continues from the newest checkpoint of the last one if that was
interrupted. `trial.json` holds the state. A lock, held by the watching process and by the training itself until both
have ended, keeps two studies from running the same trial at once.
"""

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from limoe.config.overrides import quoted
from limoe.errors import one_line
from limoe.files import read_object, try_lock, write_json
from limoe.runs.folder import numbers
from limoe.runs.layout import LAST_CHECKPOINT, RECORD

FILE, _LOCK = "trial.json", ".lock"
PENDING, RUNNING, INTERRUPTED = "pending", "running", "interrupted"
DONE, STOPPED = "done", "stopped"  # stopped: a callback ended the run before its last step
FAILED, DIVERGED, KILLED, TIMEOUT, NO_RESULT = "failed", "diverged", "killed", "timeout", "no result"
FINISHED = (DONE, STOPPED)  # all others are run again
_RESUMED = (INTERRUPTED, KILLED, TIMEOUT)  # others restart, since the checkpoint may be the cause of the failure
TRAIN = (sys.executable, "-m", "limoe", "train")
_GRACE = 30  # seconds between SIGTERM and SIGKILL
_LOOK = 1.0  # seconds between two calls of `watch`
_ERROR = re.compile(r"^limoe: error: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Trial:
    """One variant with one seed. `overrides` are those of `limoe train`, seed included."""

    variant: str
    seed: int
    overrides: tuple[str, ...]
    config_hash: str
    folder: Path


@dataclass(frozen=True)
class State:
    """Content of `trial.json`: `seconds` of training over all attempts, `run` the folder of the last attempt."""

    status: str
    seconds: float = 0.0
    run: Path | None = None
    error: str = ""

    @property
    def finished(self) -> bool:
        return self.status in FINISHED


def read_state(trial: Trial) -> State:
    """State of a trial; "running" without a process that holds the lock becomes "interrupted"."""
    state = _written(trial)
    if state.status != RUNNING:
        return state
    with try_lock(trial.folder / _LOCK) as lock:
        return state if lock is None else State(INTERRUPTED, state.seconds, state.run, "the process that ran it died")


def _written(trial: Trial) -> State:
    """State in `trial.json`, which may be outdated."""
    try:
        content = json.loads((trial.folder / FILE).read_text(encoding="utf-8"))
        run = trial.folder / content["run"] if content["run"] else None
        return State(str(content["status"]), float(content["seconds"]), run, str(content["error"]))
    except FileNotFoundError:
        return State(PENDING)
    except (OSError, ValueError, KeyError, TypeError):
        return State(INTERRUPTED, error=f"{FILE} cannot be read")


def run_trial(
    trial: Trial, *, metrics: Sequence[str], timeout: float | None, watch: Callable[[Path], None] | None = None
) -> State:
    """Run the trial unless it is finished or another process runs it. A failed training raises nothing.

    `metrics`: keys that a run needs, else its status is "no result"; `timeout` is in seconds. A KeyboardInterrupt or
    SIGTERM ends the training, which then saves as on SIGTERM, and is raised again. The same holds for exceptions of
    `watch`, which is called with the run folder about every second.
    """
    trial.folder.mkdir(parents=True, exist_ok=True)
    with try_lock(trial.folder / _LOCK) as lock:
        if lock is None:  # the process with the lock may not have written its state yet
            state = read_state(trial)
            return state if state.finished else replace(state, status=RUNNING, error="")
        before = _read_unwatched(trial, metrics=metrics)
        if before.finished:
            return before
        run, command = _next_attempt(trial, before)
        with _log(run).open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock.fileno()],
                env={key: value for key, value in os.environ.items() if key != "LIMOE_RUN_ID"},
            )
            _write(trial, State(RUNNING, before.seconds, run), pid=process.pid)
            timed_out, interrupted = _wait(process, timeout=timeout, look=None if watch is None else lambda: watch(run))
        state = _outcome(trial, run, code=process.returncode, timed_out=timed_out, metrics=metrics)
        if interrupted is not None:
            _write(trial, State(INTERRUPTED, state.seconds, run, "interrupted"))
            raise interrupted
        _write(trial, state)
        return state


def _read_unwatched(trial: Trial, *, metrics: Sequence[str]) -> State:
    """State of a trial while this process holds its lock: "running" is resolved to interrupted or the outcome."""
    state = _written(trial)
    runs = attempts(trial.folder)
    if state.status not in (RUNNING, NO_RESULT):  # `metrics` may have changed since "no result" was written
        return state
    if runs and read_object(runs[-1] / RECORD).get("status") == "done":
        state = _outcome(trial, runs[-1], code=0, timed_out=False, metrics=metrics)
        _write(trial, state)
    elif state.status == RUNNING:
        state = State(INTERRUPTED, _seconds(runs), runs[-1] if runs else None)
    return state


def _next_attempt(trial: Trial, before: State) -> tuple[Path, list[str]]:
    """(run folder, command) of the next attempt, from the checkpoint of an interrupted one."""
    number = max([0, *(int(run.name.removeprefix("try_")) for run in attempts(trial.folder))]) + 1
    run = trial.folder / f"try_{number}"
    command = [*TRAIN, *trial.overrides, f"hydra.run.dir={run}", "report=false"]
    if before.status in _RESUMED and before.run and (checkpoint := before.run / LAST_CHECKPOINT).exists():
        command.append(f"ckpt_path={quoted(checkpoint)}")
    return run, command


def _log(run: Path) -> Path:
    """File with the output of an attempt."""
    return run.with_name(f"{run.name}.log")


def _wait(
    process: subprocess.Popen, *, timeout: float | None, look: Callable[[], None] | None
) -> tuple[bool, BaseException | None]:
    """Wait for the process: (True if it was ended at the timeout, the exception that interrupted the wait)."""
    end = math.inf if timeout is None else time.monotonic() + timeout
    previous = None
    if threading.current_thread() is threading.main_thread():
        previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        while process.poll() is None:
            if look is not None:
                look()
            if time.monotonic() >= end:
                _end(process)
                return True, None
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, min(_LOOK, end - time.monotonic())))
        return False, None
    except BaseException as error:
        _end(process)
        return False, error
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _end(process: subprocess.Popen) -> None:
    """End the process by SIGTERM, after `_GRACE` seconds by SIGKILL, and then all processes of its group."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _outcome(trial: Trial, run: Path, *, code: int, timed_out: bool, metrics: Sequence[str]) -> State:
    record = read_object(run / RECORD)
    seconds = _seconds(attempts(trial.folder))
    error = str(record.get("error") or "")
    if timed_out:
        return State(TIMEOUT, seconds, run, "ended after the time limit of the study")
    if code < 0 or code == 128 + signal.SIGKILL:
        return State(KILLED, seconds, run, f"killed by signal {-code if code < 0 else code - 128}")
    if code != 0:
        if error.startswith("DivergedError"):
            return State(DIVERGED, seconds, run, error.partition(": ")[2])
        return State(FAILED, seconds, run, error or last_message(_log(run)) or f"exit code {code}")
    known = numbers(record.get("metrics"))
    missing = [key for key in metrics if not math.isfinite(known.get(key, math.nan))]
    if missing:
        return State(NO_RESULT, seconds, run, f"no value of {', '.join(missing)}")
    return State(STOPPED if record.get("status") == "stopped" else DONE, seconds, run, error)


def last_message(log: Path) -> str:
    """The error of a process in one line, else the last line of its output."""
    text = log.read_text(encoding="utf-8", errors="replace")
    found = _ERROR.findall(text) or [line for line in text.splitlines() if line.strip()][-1:]
    return one_line(found[-1])[:300] if found else ""


def attempts(folder: Path) -> list[Path]:
    """The run folders of a trial, oldest first."""
    runs = [path for path in folder.glob("try_*") if path.is_dir() and path.name[4:].isdecimal()]
    return sorted(runs, key=lambda path: int(path.name[4:]))


def _seconds(runs: Sequence[Path]) -> float:
    times = [read_object(run / RECORD).get("seconds") for run in runs]
    return sum(float(value) for value in times if isinstance(value, int | float))


def _write(trial: Trial, state: State, *, pid: int | None = None) -> None:
    content = {
        "status": state.status,
        "pid": pid,  # of the training, on the machine where it runs
        "error": state.error,
        "seconds": round(state.seconds, 1),
        "run": state.run.name if state.run else None,
        **asdict(trial),
        "folder": trial.folder.name,
    }
    write_json(trial.folder / FILE, content)
