"""What a search may change: one parameter per config key, and its values as words of Hydra's override grammar."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
_NOT_TEXT = ("true", "false", "null", "none", "inf", "nan")  # words that Hydra does not read as a text
Require = Callable[[bool, str], None]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included: whole ones if both ends are whole.

    `log` draws evenly over orders of magnitude; `step` only from low, low + step, ...
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def is_whole(self) -> bool:
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))

    @property
    def probes(self) -> tuple[str, ...]:
        """The values that are checked before anything runs."""
        return self.word(self.low), self.word(self.high)

    def word(self, value: float) -> str:
        """The value as a training is given it: six digits, so that people can read and type it."""
        return str(int(value)) if self.is_whole else repr(float(f"{value:.6g}"))

    def __str__(self) -> str:
        how = " (log)" if self.log else "" if self.step is None else f" (step {self.step:g})"
        return f"{self.word(self.low)} to {self.word(self.high)}{how}"


@dataclass(frozen=True)
class Choices:
    """A list of values, of any kind that an override may have."""

    words: tuple[str, ...]

    @property
    def probes(self) -> tuple[str, ...]:
        return self.words

    def word(self, value: str) -> str:
        return value

    def __str__(self) -> str:
        return ", ".join(self.words)


Parameter = Range | Choices


def parse_parameter(key: Any, entry: Any, *, require: Require) -> Parameter:
    """A parameter of search.yaml; `require(condition, message)` raises where a rule is broken."""
    plain = isinstance(key, str) and re.fullmatch(r"[A-Za-z_][\w.@/]*", key) is not None
    require(plain, f"space: {key!r} must be a config key, such as optimizer.lr")
    require(key not in ("seed", "hydra.run.dir"), f"space: {key} is set by the search itself")
    where = f"space.{key}"
    require(isinstance(entry, dict), f"{where} must be {{low, high}} or {{choices}}, got {entry!r:.60}")
    if "choices" in entry:
        require(set(entry) == {"choices"}, f"{where}: choices come alone, got {', '.join(map(str, entry))}")
        return _choices(entry["choices"], where=where, require=require)
    known = {"low", "high"} <= set(entry) <= {"low", "high", "log", "step"}
    require(known, f"{where} must have low, high and perhaps log or step, got {', '.join(map(str, entry))}")
    return _range(**entry, where=where, require=require)


def word(value: Any) -> str:
    """A value of a YAML file in Hydra's override grammar."""
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case int() | float():
            return repr(value)
        case list():
            return f"[{','.join(word(entry) for entry in value)}]"
        case dict():
            return f"{{{','.join(f'{key}:{word(entry)}' for key, entry in value.items())}}}"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT:
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _choices(values: Any, *, where: str, require: Require) -> Choices:
    require(isinstance(values, list) and len(values) > 1, f"{where}.choices must list two or more, got {values!r:.60}")
    words = tuple(word(value) for value in values)
    require(len(set(words)) == len(words), f"{where}.choices must differ, got {values!r:.60}")
    return Choices(words)


def _range(low: Any, high: Any, *, where: str, require: Require, log: Any = False, step: Any = None) -> Range:
    for name, value in (("low", low), ("high", high), ("step", low if step is None else step)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        require(number, f"{where}.{name} must be a number, got {value!r:.60}")
    require(low < high, f"{where}.low must be < high={high}, got {low}")
    require(isinstance(log, bool), f"{where}.log must be true or false, got {log!r:.60}")
    require(not log or low > 0, f"{where}.low must be > 0 where log is true, got {low}")
    require(step is None or not log, f"{where}: step and log exclude each other")
    if step is not None:
        steps = (high - low) / step if step > 0 else 0.0
        whole = steps >= 1 and abs(steps - round(steps)) < 1e-6
        require(whole, f"{where}.step must be > 0 and divide high - low, got {step}")
    return Range(low, high, log, step)
