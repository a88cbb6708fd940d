"""Reading of run folders; missing or broken parts become lines in `problems`.

Numbers are parsed one by one, since files may be incomplete; of repeated steps (a resumed run) the last one counts.
"""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from limoe.config.trees import leaves
from limoe.errors import DataError
from limoe.runs.layout import ALARMS, CONFIG, HEALTH, METRICS, RECORD, SAMPLE_LIST
from limoe.types import MODALITIES

Curve = dict[int, float]  # step -> value
T = TypeVar("T")

_MARKS = (RECORD, CONFIG, METRICS)


@dataclass(frozen=True)
class Health:
    """One line of `routing/health.jsonl`: statistics of one layer and modality. Entropies are in nats.

    In runs without `assignments` it is 1 for both modalities, and `effective_experts` is exp(global entropy).
    """

    step: int
    layer: int
    modality: str
    success_rate: float
    load: tuple[float, ...]  # share of the modality's assignments per expert, before drops
    local_entropy: float
    global_entropy: float
    dead_experts: int
    assignments: int  # tokens times K
    effective_experts: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Health":
        """Parse a line; raises KeyError, TypeError or ValueError on other content."""
        load = tuple(float(share) for share in row["load"])
        if row["modality"] not in MODALITIES or not all(0 <= share <= 1 for share in load):
            raise ValueError(row)
        defaults = {"assignments": 1, "effective_experts": math.exp(float(row["global_entropy"]))}
        values = {**defaults, **row, "load": load}
        return cls(**{name: kind(values[name]) for name, kind in get_type_hints(cls).items()})


@dataclass(frozen=True)
class Sample:
    """A test image (a file name inside `samples/`), its class, and the most probable classes with probabilities."""

    image: str
    truth: str
    top: tuple[tuple[str, float], ...]

    @property
    def right(self) -> bool:
        """True if the most probable class is the image's class."""
        return bool(self.top) and self.top[0][0] == self.truth

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> "Sample":
        """Parse an entry; raises KeyError, TypeError or ValueError on other content."""
        top = tuple((str(caption), float(probability)) for caption, probability in item["top"])
        return cls(image=Path(str(item["image"])).name, truth=str(item["truth"]), top=top)


@dataclass
class RunFolder:
    """Content of a run folder. `record` is run.json; `curves` are the logged metrics by key."""

    path: Path
    record: dict[str, Any] = field(default_factory=dict)
    config: str = ""
    curves: dict[str, Curve] = field(default_factory=dict)
    health: list[Health] = field(default_factory=list)
    # (layer, modality) -> the first message; both None for a leak between the modalities
    alarms: dict[tuple[int | None, str | None], str] = field(default_factory=dict)
    sample_task: str = ""
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved config; empty if it cannot be read."""
        try:
            content = yaml.safe_load(self.config)
        except (yaml.YAMLError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    @property
    def metrics(self) -> dict[str, float]:
        """Final values: those of run.json, else the last logged ones."""
        final = numbers(self.record.get("metrics"))
        return final or {key: curve[max(curve)] for key, curve in self.curves.items()}

    @property
    def results(self) -> dict[str, float]:
        """Final values measured on held-out data."""
        return {key: value for key, value in self.metrics.items() if key.startswith("val/")}

    @property
    def chance(self) -> dict[str, float]:
        return numbers(self.record.get("chance"))


def numbers(mapping: Any) -> dict[str, float]:
    """The numbers among the values of a mapping, null as NaN; empty for anything else."""
    if not isinstance(mapping, dict):
        return {}
    return {
        str(key): math.nan if value is None else float(value)
        for key, value in mapping.items()
        if value is None or isinstance(value, float) or (type(value) is int and abs(value) < 2**63)
    }


def read_run(path: Path) -> RunFolder:
    """Read a run folder. Raises `DataError` if it has none of the files of a run."""
    if not any((path / mark).is_file() for mark in _MARKS):
        raise DataError(
            f"{path} is not a run folder (none of {', '.join(_MARKS)}): give the folder that training printed"
        )
    run = RunFolder(path)
    _read_record(run)
    run.config = _text(run, CONFIG, consequence="the resolved config is unknown") or ""
    _read_curves(run)
    _read_health(run)
    _read_alarms(run)
    _read_samples(run)
    return run


def _text(run: RunFolder, name: str, *, consequence: str) -> str | None:
    """The text of a file; None, with a line in `problems`, if it cannot be read."""
    try:
        return (run.path / name).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        run.problems.append(f"{name}: {error.strerror or error}; {consequence}")
        return None


def _json(run: RunFolder, name: str, *, consequence: str) -> dict[str, Any]:
    text = _text(run, name, consequence=consequence)
    try:
        value = json.loads(text) if text is not None else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        run.problems.append(f"{name}: not a JSON object; {consequence}")
        return {}
    return value


def _read_record(run: RunFolder) -> None:
    run.record = _json(run, RECORD, consequence="status, command, versions and chance levels are unknown")
    status, error = run.record.get("status"), run.record.get("error")
    if status == "running":
        run.problems.append("the run has not ended, or was killed: the numbers are the last ones written")
    if status in ("failed", "stopped"):
        ending = "failed" if status == "failed" else "was stopped"
        run.problems.append(f"the run {ending}{f': {error}' if error else ''}")


def _read_curves(run: RunFolder) -> None:
    try:
        with open(run.path / METRICS, encoding="utf-8", errors="replace", newline="") as file:
            for key, step, value in _cells(csv.DictReader(file)):
                run.curves.setdefault(key, {})[step] = value
    except OSError as error:
        run.problems.append(f"{METRICS}: {error.strerror or error}; there are no curves")
    except csv.Error as error:
        run.problems.append(f"{METRICS}: {error}; the curves end there")
    else:
        if not run.curves:
            run.problems.append(f"{METRICS}: holds no numbers; there are no curves")


def _cells(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, int, float]]:
    """(key, step, value) of every cell that is a number, in the order written."""
    for row in rows:
        with suppress(KeyError, TypeError, ValueError):  # an incomplete line
            step = int(row["step"])
            for key, text in row.items():
                if text and key not in ("step", "epoch", ""):
                    with suppress(ValueError):
                        yield key, step, float(text)


def _read_health(run: RunFolder) -> None:
    consequence = "there is no routing to show"
    if not (run.path / HEALTH).exists():
        layers = [value for key, value in leaves(run.settings.get("model")) if key.endswith("moe_layers")]
        if not layers or any(layers):  # not a dense run
            run.problems.append(f"{HEALTH}: missing; {consequence}")
        return
    found = _parsed_lines(run, HEALTH, Health.of, consequence=consequence)
    rows = {(row.step, row.layer, row.modality): row for row in found}
    run.health = [rows[key] for key in sorted(rows)]


def _read_alarms(run: RunFolder) -> None:
    """Read the first alarm of each layer and modality, and of a leak, if the run had a `CollapseAlarm`."""
    if not (run.path / ALARMS).exists():
        return

    def parse(alarm: Mapping[str, Any]) -> tuple[int | None, str | None, str]:
        if alarm["layer"] is None:
            return None, None, str(alarm["message"])
        return int(alarm["layer"]), str(alarm["modality"]), str(alarm["message"])

    for layer, modality, message in _parsed_lines(run, ALARMS, parse, consequence="alarms are unknown"):
        run.alarms.setdefault((layer, modality), message)


def _parsed_lines(run: RunFolder, name: str, parse: Callable[[Any], T], *, consequence: str) -> list[T]:
    """The objects in a file of JSON lines; the number of those that `parse` refuses becomes a line in `problems`."""
    lines = (_text(run, name, consequence=consequence) or "").splitlines()
    found = []
    for line in lines:
        with suppress(KeyError, TypeError, ValueError, RecursionError, OverflowError):
            found.append(parse(json.loads(line)))
    if len(found) < len(lines):
        run.problems.append(f"{name}: {len(lines) - len(found)} of {len(lines)} lines can't be read and are left out")
    return found


def _read_samples(run: RunFolder) -> None:
    content = _json(run, SAMPLE_LIST, consequence="there are no images to show")
    run.sample_task = str(content.get("task", ""))
    items = content.get("items", [])
    for item in items if isinstance(items, list) else []:
        try:
            run.samples.append(Sample.of(item))
        except (KeyError, TypeError, ValueError):
            run.problems.append(f"{SAMPLE_LIST}: an entry can't be read and is left out")


def last_logged(path: Path, key: str = "step") -> tuple[int, float]:
    """(optimizer steps done, value) at the last row with a value of `key`; (0, NaN) if there is none.

    Lightning logs steps from 0. By default the steps at the last row of the log.
    """
    found = (0, math.nan)
    try:
        with (path / METRICS).open(encoding="utf-8", errors="replace", newline="") as file:
            for row in csv.DictReader(file):
                if row.get(key):
                    found = (int(row["step"]) + 1, float(row[key]))
    except (OSError, ValueError, TypeError, KeyError, csv.Error):
        pass
    return found
