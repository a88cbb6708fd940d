"""A point of a search: the values it gave to the parameters, and what became of its trainings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from limoe.search.spec import POINT, Search
from limoe.studies.trial import FAILED, KILLED, TIMEOUT, Trial

WAITING, RUNNING, DONE, PRUNED, REFUSED = "waiting", "running", "done", "pruned", "refused"
RETRIED = (FAILED, KILLED, TIMEOUT)  # their end may lie in the machine or in the data: the next command tries again


@dataclass(frozen=True)
class Outcome:
    """`status` is `done`, `pruned`, `refused` (the config breaks a rule) or that of the training that ended it.

    `values` of the metric by seed; `seconds` of all trainings together.
    """

    status: str
    error: str = ""
    seconds: float = 0.0
    values: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """`words` are the values as overrides take them, by key; `hashes` those of the configs, by seed; `value` the mean
    of the metric over the seeds, None unless all of them have one."""

    number: int
    words: dict[str, str]
    hashes: dict[int, str]
    outcome: Outcome
    value: float | None = None

    @property
    def status(self) -> str:
        return self.outcome.status

    @property
    def overrides(self) -> list[str]:
        return [f"{key}={word}" for key, word in self.words.items()]

    @property
    def ended(self) -> bool:
        return self.status not in (WAITING, RUNNING)


def best_of(search: Search, points: Sequence[Point]) -> Point | None:
    """The point with the best value, of equal ones the first; None where there is no value."""
    sign = 1 if search.metric.higher else -1
    return max((p for p in points if p.value is not None), key=lambda p: sign * (p.value or 0.0), default=None)


def trials_of(point: Point, *, root: Path) -> list[Trial]:
    """The trainings that the point has begun or found finished, by seed."""
    return [
        Trial(POINT, seed, tuple(point.overrides), digest, root / POINT / f"seed_{seed}_{digest}")
        for seed, digest in point.hashes.items()
    ]
