"""Finding and reading of several runs, given by run folders, parent folders or patterns."""

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from limoe.config.overrides import override_key
from limoe.config.trees import mapped, moved
from limoe.errors import DataError
from limoe.files import read_object
from limoe.runs.folder import RunFolder, read_run
from limoe.runs.layout import RECORD
from limoe.studies.results import Row, runs_of
from limoe.studies.trial import DIVERGED, DONE, FAILED, INTERRUPTED, STOPPED, State, Trial, attempts, read_state
from limoe.studies.trial import FILE as TRIAL

UNREADABLE = "unreadable"
NOT_THE_RUN = ("seed", "task", "paths", "hydra", "ckpt_path", "report")  # keys that do not distinguish variants
_STATUS = {"done": DONE, "failed": FAILED, "stopped": STOPPED, "running": INTERRUPTED}
_ENDED_FROM_OUTSIDE = ("KeyboardInterrupt", "SystemExit", "SIGTERMException")


def find_runs(places: Sequence[str]) -> tuple[list[Path], list[str]]:
    """(folders of runs and trials, each once and in the given order; places without any).

    Raises:
        DataError: a place does not exist, or none of them holds a run.
    """
    found: dict[Path, Path] = {}
    empty = []
    for place in places:
        path = Path(place).expanduser()
        if not path.exists() and not glob.has_magic(place):
            raise DataError(f"{place} is no run folder: it holds no {RECORD}")
        matches = [str(path)] if path.exists() else sorted(glob.glob(str(path), recursive=True))
        here = [folder for match in matches for folder in _runs_in(Path(match))]
        empty += [] if here else [place]
        for folder in here:
            found.setdefault(folder.resolve(), folder)
    if not found:
        others = f" and {len(places) - 1} more" if len(places) > 1 else ""
        raise DataError(f"{places[0]}{others} is no run folder: it holds no {RECORD}")
    return list(found.values()), empty


def read_row(folder: Path) -> Row:
    """One run, or all attempts of one trial, as a row; an unreadable one has the status "unreadable".

    The variant is the name in its study, or empty; an unknown seed is -1; an unreadable config is empty.
    """
    is_trial = (folder / TRIAL).is_file()
    runs = runs_of(folder) if is_trial else [read_run(folder)]
    written = read_object(folder / TRIAL) if is_trial else {}
    record = runs[-1].record if runs else {}
    config = runs[-1].settings if runs else {}
    seed = written.get("seed", config.get("seed", record.get("seed")))
    words = record.get("overrides")
    trial = Trial(
        variant=str(written.get("variant", "")),
        seed=seed if type(seed) is int and seed >= 0 else -1,
        overrides=tuple(word for word in map(str, words if isinstance(words, list) else ()) if is_setting(word)),
        config_hash=str(record.get("config_hash") or ""),
        folder=folder,
    )
    state = read_state(trial) if is_trial else _state(runs[-1])
    return replace(Row.of(trial, state, runs), config=_settings(config), started=str(record.get("started", "")))


def is_setting(word: str) -> bool:
    """True if an override or dotted key distinguishes variants."""
    return override_key(word).partition(".")[0] not in NOT_THE_RUN


def last_run(folder: Path) -> Path:
    """The folder itself, or the last attempt of a trial."""
    return (attempts(folder) or [folder])[-1] if (folder / TRIAL).is_file() else folder


def digest(folders: Sequence[Path]) -> str:
    """Eight hex digits that identify a set of run folders, independent of their order."""
    return hashlib.sha256("\n".join(sorted(str(path.resolve()) for path in folders)).encode()).hexdigest()[:8]


def _runs_in(path: Path) -> Iterator[Path]:
    """Run and trial folders at or below `path`; an attempt counts as its trial."""
    if (path / RECORD).is_file() and (path.parent / TRIAL).is_file():
        yield path.parent
        return
    for place, folders, files in os.walk(path):
        folders.sort()
        if TRIAL in files or RECORD in files:
            folders.clear()
            yield Path(place)


def _state(run: RunFolder) -> State:
    error, seconds = str(run.record.get("error") or ""), run.record.get("seconds")
    status = _STATUS.get(str(run.record.get("status")), UNREADABLE)
    if status == UNREADABLE:
        error = f"{RECORD} has no known status"
    elif status == INTERRUPTED:
        error = "has not ended, or was killed"
    elif status == FAILED and error.startswith("DivergedError"):
        status, error = DIVERGED, error.partition(": ")[2]
    elif status == STOPPED and error in _ENDED_FROM_OUTSIDE:
        status = INTERRUPTED
    return State(status, float(seconds) if isinstance(seconds, int | float) else 0.0, run.path, error)


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """The config without keys that do not distinguish variants, and with names in place of the run's folders."""
    paths = config.get("paths")
    folders = sorted(paths.items(), key=lambda item: -len(str(item[1]))) if isinstance(paths, dict) else []

    def nameless(_: str, value: Any) -> Any:
        for name, folder in folders:
            value = moved(value, before=str(folder), now=f"<{name}>")
        return value

    return mapped({key: value for key, value in config.items() if is_setting(str(key))}, nameless)
