"""Results of a study: one row per trial, as a CSV file."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limoe.errors import DataError
from limoe.files import write_text
from limoe.reporting.sheets import Entry, as_csv, sheet
from limoe.runs.folder import Curve, RunFolder, numbers, read_run
from limoe.runs.layout import RECORD
from limoe.studies.plan import Plan
from limoe.studies.trial import State, Trial, attempts
from limoe.types import MODALITIES

RUNS = "runs.csv"
_FIXED = ("variant", "seed", "config_hash", "commit", "status", "seconds", "error", "successful", "run", "alarms")
_PACE, _CPU, _CHANCE = "seconds_per_step", "cpu_seconds", "chance/"
_KEPT = 0.9  # success rate that a modality needs in a successful run


@dataclass(frozen=True)
class Row:
    """Result of one trial.

    `metrics` are those of its last attempt, empty unless the trial finished. `curves` are those of all attempts; of two
    values at one step the later counts. `seconds_per_step` and `cpu_seconds` (of the whole run) are None after several
    attempts, which may have repeated steps, and where they were not recorded. `config`, without seed and folders, and
    `started` are set for runs that are compared without a study.
    """

    trial: Trial
    state: State
    metrics: Mapping[str, float] = field(default_factory=dict)
    chance: Mapping[str, float] = field(default_factory=dict)
    commit: str = ""
    alarms: int = 0
    seconds_per_step: float | None = None
    cpu_seconds: float | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    started: str = ""

    @classmethod
    def of(cls, trial: Trial, state: State, runs: Sequence[RunFolder]) -> "Row":
        """The row of a trial from the run folders of its attempts, oldest first."""
        if not runs:
            return cls(trial, state)
        curves: dict[str, Curve] = {}
        for run in runs:
            for key, curve in run.curves.items():
                curves[key] = {**curves.get(key, {}), **curve}
        steps = max((max(curve) + 1 for curve in curves.values()), default=0)  # Lightning counts them from 0
        return cls(
            trial,
            state,
            metrics=runs[-1].metrics if state.finished else {},
            chance=runs[-1].chance,
            commit=str(runs[-1].record.get("git_commit") or ""),
            alarms=len(runs[-1].alarms),
            seconds_per_step=state.seconds / steps if len(runs) == 1 and steps > 0 else None,
            cpu_seconds=numbers(runs[0].record).get(_CPU) if len(runs) == 1 else None,
            curves=curves,
        )

    @property
    def successful(self) -> bool:
        """True for a finished trial with finite losses and, if sparse, a success rate of at least 90 % per modality.

        The limit is limoe's, not the paper's.
        """
        losses = [value for key, value in self.metrics.items() if key in ("train/loss", "val/loss")]
        return bool(losses) and all(map(math.isfinite, losses)) and all(kept_slots(self.metrics).values())

    @property
    def name(self) -> str:
        """Name of its folder, with that of the parent if it is only a number, as in a multirun."""
        folder = self.trial.folder
        return f"{folder.parent.name}/{folder.name}" if folder.name.isdecimal() else folder.name


def collect(plan: Plan, states: Sequence[State]) -> list[Row]:
    """Rows in the order of the plan, with the content of the attempts' run folders."""
    return [Row.of(trial, state, runs_of(trial.folder)) for trial, state in zip(plan.trials, states, strict=True)]


def runs_of(trial: Path) -> list[RunFolder]:
    """Run folders of the attempts of a trial, oldest first."""
    return [read_run(run) for run in attempts(trial) if (run / RECORD).is_file()]


def kept_slots(metrics: Mapping[str, float]) -> dict[str, bool]:
    """By modality: True if its final success rate, mean over layers, is at least 90 %; empty for a dense run."""
    rates = {name: metrics.get(f"router/{name}/success_rate") for name in MODALITIES}
    return {name: rate >= _KEPT for name, rate in rates.items() if rate is not None}


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write all trials with all metrics, and chance where it is known; the file is replaced in one step."""
    keys = sorted({key for row in rows for key in _numbers(row)})
    table: list[list[Entry | str]] = []
    for row in rows:
        trial, state, found = row.trial, row.state, _numbers(row)
        texts = [trial.variant, str(trial.seed), trial.config_hash, row.commit, state.status, f"{state.seconds:.1f}"]
        texts += [state.error, str(row.successful).lower(), row.name, str(row.alarms)]
        table.append([*texts, *(Entry("", found.get(key)) for key in keys)])
    write_text(path, as_csv(sheet("runs", [*_FIXED, *keys], table)))


def read_csv(path: Path) -> list[Row]:
    """Read the file of `write_csv`: all rows without their curves.

    Raises:
        DataError: the file is missing, or no such table.
    """
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; report_only=true needs it: give its folder (out=FOLDER), "
            "or train first, without report_only"
        )
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [_row(entry) for entry in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as the rows of a report: {type(error).__name__}: {error}") from error


def _numbers(row: Row) -> dict[str, float]:
    times = {_PACE: row.seconds_per_step, _CPU: row.cpu_seconds}
    known = {key: value for key, value in times.items() if value is not None}
    return {**row.metrics, **{f"{_CHANCE}{key}": value for key, value in row.chance.items()}, **known}


def _row(entry: dict[str, str]) -> Row:
    trial = Trial(entry["variant"], int(entry["seed"]), (), entry["config_hash"], Path(entry["run"]))
    state = State(entry["status"], float(entry["seconds"]), error=entry["error"])
    found = {key: float(text) for key, text in entry.items() if key not in _FIXED and text}
    pace, cpu = found.pop(_PACE, None), found.pop(_CPU, None)
    return Row(
        trial,
        state,
        chance={key.removeprefix(_CHANCE): x for key, x in found.items() if key.startswith(_CHANCE)},
        metrics={key: x for key, x in found.items() if not key.startswith(_CHANCE)},
        commit=entry["commit"],
        alarms=int(entry["alarms"]),
        seconds_per_step=pace,
        cpu_seconds=cpu,
    )
