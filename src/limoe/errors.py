"""Errors a user can mend. The command line prints them as one line, without a traceback, and exits with code 2."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class LimoeError(ValueError):
    """Something the user gave does not work; the message names it and says what to do.

    `details` are lines to print below the message, such as a table; whoever makes them escapes control characters.
    """

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(message)
        self.details = details

    def __str__(self) -> str:
        """torch repeats the error of a loader worker with the worker's traceback in front; only the message is ours."""
        text = super().__str__()
        return text.rpartition(f"{type(self).__module__}.{type(self).__name__}: ")[2].strip() or text


class ConfigError(LimoeError):
    """A config key has a value that breaks a rule."""


class ArgumentError(LimoeError):
    """A constructor's argument breaks a rule, in the constructor's own words: it knows no config key.

    Whoever knows where the argument was set, such as `limoe.config.compose.instantiate`, adds the dotted key.

    Args:
        message: begins with the name of the argument.
        argument: that name; a part of its value may follow it (`sizes.image`, `shots[1]`).
    """

    def __init__(self, message: str, *, argument: str = "", details: str = "") -> None:
        super().__init__(message, details=details)
        self.argument = argument


class DataError(LimoeError):
    """A file or folder with data is missing or broken."""


class DivergedError(LimoeError):
    """Training produced a number that is not finite; going on would only spread it."""


def require(condition: bool, key: str, rule: str, value: Any) -> None:
    """Raise `ConfigError("<key> must be <rule>, got <value>")` unless `condition` holds.

    `key` is the dotted config key the value comes from, such as `routing.capacity_factor`.
    """
    if not condition:
        raise ConfigError(f"{key} must be {rule}, got {value!r}")


def require_argument(condition: bool, argument: str, rule: str, value: Any) -> None:
    """Raise `ArgumentError("<argument> must be <rule>, got <value>")` unless `condition` holds.

    For constructors and functions that check their own arguments. The rule may name other arguments of the same
    function (`a multiple of num_heads=4`).
    """
    if not condition:
        raise ArgumentError(f"{argument} must be {rule}, got {value!r}", argument=argument)


@contextmanager
def arguments_of_part(name: str) -> Iterator[None]:
    """What a part says about its arguments inside is raised as being about those of the part `name` of its parent."""
    try:
        yield
    except ArgumentError as error:
        raise ArgumentError(f"{name}.{error}", argument=f"{name}.{error.argument}") from error


def one_line(text: str) -> str:
    """White space runs become one blank, control characters their escapes: a message cannot forge a second line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))
