"""Finds the runs that somebody means: run folders, folders that hold some, patterns the shell left alone."""

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from limoe.errors import DataError
from limoe.reporting.run_folder import RunFolder, read_run
from limoe.run_record import FILE as RECORD
from limoe.studies.trial import (
    DIVERGED,
    DONE,
    FAILED,
    INTERRUPTED,
    STOPPED,
    State,
    Trial,
    attempts,
    read_state,
)
from limoe.studies.trial import FILE as TRIAL

UNREADABLE = "unreadable"
_ENDED_FROM_OUTSIDE = ("KeyboardInterrupt", "SystemExit", "SIGTERMException")
_NOT_THE_RUN = ("seed", "task", "paths", "hydra", "ckpt_path", "report")  # keys that say where, whence and which time


@dataclass(frozen=True)
class Member:
    """A run of a set. `config` leaves seed and folders out, empty where it cannot be read; `seed` is -1 where unknown;
    `variant` is the name that a study gave it, if one did."""

    folder: Path
    runs: tuple[RunFolder, ...]
    state: State
    config: dict[str, Any]
    seed: int
    variant: str = ""

    @property
    def record(self) -> dict[str, Any]:
        return self.runs[-1].record if self.runs else {}

    @property
    def overrides(self) -> tuple[str, ...]:
        """What was said on the command line, without what `config` leaves out."""
        words = self.record.get("overrides")
        words = [str(word) for word in words] if isinstance(words, list) else []
        return tuple(word for word in words if _key(word) not in _NOT_THE_RUN)


def find_runs(places: Sequence[str]) -> tuple[list[Path], list[str]]:
    """(folders of runs and of trials, each once and in the order given, places that hold none).

    Raises:
        DataError: a place does not exist, or none of them holds a run.
    """
    found: dict[Path, Path] = {}
    empty = []
    for place in places:
        here = [folder for path in _expanded(place) for folder in _runs_in(path)]
        empty += [] if here else [place]
        for folder in here:
            found.setdefault(folder.resolve(), folder)
    if not found:
        others = f" and {len(places) - 1} more" if len(places) > 1 else ""
        raise DataError(f"{places[0]}{others} is no run folder: it holds no {RECORD}")
    return list(found.values()), empty


def read_member(folder: Path) -> Member:
    """One run, or all attempts of one trial; what cannot be read is a state, not an error."""
    if (folder / TRIAL).is_file():
        runs = tuple(read_run(run) for run in attempts(folder) if (run / RECORD).is_file())
        said = _trial(folder)
        trial = Trial(said.get("variant", ""), 0, (), "", folder)
        config, seed = _config(runs[-1]) if runs else ({}, -1)
        seed = said["seed"] if isinstance(said.get("seed"), int) else seed
        return Member(folder, runs, read_state(trial), config, seed, str(said.get("variant", "")))
    run = read_run(folder)
    config, seed = _config(run)
    return Member(folder, (run,), _state(run), config, seed)


def last_run(folder: Path) -> Path:
    """The folder itself, or the last attempt of a trial."""
    return (attempts(folder) or [folder])[-1] if (folder / TRIAL).is_file() else folder


def digest(folders: Sequence[Path]) -> str:
    """Names a set of runs, in whatever order they are given."""
    return hashlib.sha256("\n".join(sorted(str(path.resolve()) for path in folders)).encode()).hexdigest()[:8]


def _expanded(place: str) -> list[Path]:
    path = Path(place).expanduser()
    if path.exists():
        return [path]
    if not glob.has_magic(place):
        raise DataError(f"{place} is no run folder: it holds no {RECORD}")
    return [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]


def _runs_in(path: Path) -> list[Path]:
    """Itself, or what lies below; attempts count as their trial."""
    if (path / RECORD).is_file() and (path.parent / TRIAL).is_file():
        return [path.parent]
    return list(_below(path))


def _below(path: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(path):
        folders.sort()
        if TRIAL in files or RECORD in files:
            folders.clear()
            yield Path(place)


def _trial(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / TRIAL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _state(run: RunFolder) -> State:
    record, error = run.record, str(run.record.get("error") or "")
    seconds = record.get("seconds")
    status = {"done": DONE, "failed": FAILED, "stopped": STOPPED, "running": INTERRUPTED}.get(str(record.get("status")))
    if status is None:
        status, error = UNREADABLE, f"{RECORD} says nothing of how the run ended"
    elif status == INTERRUPTED:
        error = "has not ended, or was killed"
    elif status == FAILED and error.startswith("DivergedError"):
        status, error = DIVERGED, error.partition(": ")[2]
    elif status == STOPPED and error in _ENDED_FROM_OUTSIDE:
        status = INTERRUPTED
    return State(status, float(seconds) if isinstance(seconds, int | float) else 0.0, run.path, error)


def _config(run: RunFolder) -> tuple[dict[str, Any], int]:
    """The config without seed and folders, and the seed."""
    try:
        content = yaml.safe_load(run.config)
    except (yaml.YAMLError, RecursionError):
        content = None
    content = content if isinstance(content, dict) else {}
    seed = content.get("seed", run.record.get("seed"))
    paths = content.get("paths")
    folders = {str(path): f"<{key}>" for key, path in paths.items()} if isinstance(paths, dict) else {}
    seed = seed if isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 else -1
    kept = {key: value for key, value in content.items() if key not in _NOT_THE_RUN}
    return _nameless(kept, seed=seed, folders=folders), seed


def _nameless(content: Any, *, seed: int, folders: dict[str, str]) -> Any:
    """Every copy of the run's seed and of its folders replaced by a name."""
    if isinstance(content, dict):
        return {
            str(key): "<seed>" if key == "seed" and value == seed else _nameless(value, seed=seed, folders=folders)
            for key, value in content.items()
        }
    if isinstance(content, list):
        return [_nameless(value, seed=seed, folders=folders) for value in content]
    if isinstance(content, str):
        longest_first = sorted(folders, key=len, reverse=True)
        match = next((path for path in longest_first if content == path or content.startswith(f"{path}/")), None)
        return content if match is None else folders[match] + content.removeprefix(match)
    return content


def _key(override: str) -> str:
    """`paths` of `++paths.log_dir=x`, `hydra` of `hydra/launcher=joblib`."""
    return override.lstrip("+~").partition("=")[0].replace("/", ".").partition(".")[0]
