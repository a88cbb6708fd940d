"""One row per trial, as a table that other programs read."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from limoe.files import write_text
from limoe.reporting.run_folder import RunFolder, read_run
from limoe.studies.plan import Plan
from limoe.studies.trial import State, Trial, attempts
from limoe.types import MODALITIES

_FIXED = ("variant", "seed", "config_hash", "commit", "status", "seconds", "error", "successful", "run")
_KEPT = 0.9  # share of a modality's tokens with a seat in a successful run


@dataclass(frozen=True)
class Row:
    """What became of one trial. `runs` are its attempts, oldest first; `metrics` of the last one."""

    trial: Trial
    state: State
    runs: tuple[RunFolder, ...]

    @property
    def metrics(self) -> dict[str, float]:
        """Empty unless the trial finished: numbers of half a training are no results."""
        return self.runs[-1].metrics if self.runs and self.state.finished else {}

    @property
    def successful(self) -> bool:
        """Finished with finite losses, and with at least 90 % of both modalities in their seats (our rule).

        A dense run has no seats to lose.
        """
        losses = [value for key, value in self.metrics.items() if key in ("train/loss", "val/loss")]
        return bool(losses) and all(map(math.isfinite, losses)) and all(kept_seats(self.metrics).values())

    @property
    def name(self) -> str:
        """Of its folder, with the one around it where that is a number alone, as in a multirun."""
        folder = self.trial.folder
        return f"{folder.parent.name}/{folder.name}" if folder.name.isdecimal() else folder.name

    @property
    def commit(self) -> str:
        return str(self.runs[-1].record.get("git_commit") or "") if self.runs else ""


def collect(plan: Plan, states: Sequence[State]) -> list[Row]:
    """Rows in the order of the plan, each with what its attempts left behind."""
    return [
        Row(trial, state, tuple(read_run(run) for run in attempts(trial.folder) if (run / "run.json").is_file()))
        for trial, state in zip(plan.trials, states, strict=True)
    ]


def kept_seats(metrics: Mapping[str, float]) -> dict[str, bool]:
    """By modality whether it kept its seats to the end, mean over layers; nothing for a dense run."""
    rates = {name: metrics.get(f"router/{name}/success_rate") for name in MODALITIES}
    return {name: rate >= _KEPT for name, rate in rates.items() if rate is not None}


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """All trials with all metrics that any of them has; replaced in one step."""
    keys = sorted({key for row in rows for key in row.metrics})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_FIXED, *keys])
    for row in rows:
        trial, state = row.trial, row.state
        fixed = [trial.variant, trial.seed, trial.config_hash, row.commit, state.status, f"{state.seconds:.1f}"]
        fixed += [state.error, str(row.successful).lower(), row.name]
        writer.writerow([*fixed, *(_cell(row.metrics.get(key)) for key in keys)])
    write_text(path, text.getvalue())


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
