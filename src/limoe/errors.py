"""Errors a user can mend. The command line prints them as one line, without a traceback, and exits with code 2."""

from typing import Any


class LimoeError(ValueError):
    """Something the user gave does not work; the message names it and says what to do."""

    def __str__(self) -> str:
        """torch repeats the error of a loader worker with the worker's traceback in front; only the message is ours."""
        text = super().__str__()
        return text.rpartition(f"{__name__}.{type(self).__name__}: ")[2].strip() or text


class ConfigError(LimoeError):
    """A config key has a value that breaks a rule."""


class DataError(LimoeError):
    """A file or folder with data is missing or broken."""


def require(condition: bool, key: str, rule: str, value: Any) -> None:
    """Raise `ConfigError("<key> must be <rule>, got <value>")` unless `condition` holds.

    `key` is the dotted config key the value comes from, such as `routing.capacity_factor`.
    """
    if not condition:
        raise ConfigError(f"{key} must be {rule}, got {value!r}")
