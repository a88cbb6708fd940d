"""Errors that a user can fix. The command line prints them as one line, without a traceback, and exits with code 2."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class LimoeError(ValueError):
    """Base class of errors in the user's input; the message names the input and says what to do.

    `details` are lines to print below the message, such as a table, with control characters already escaped.
    """

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(message)
        self.details = details

    def __str__(self) -> str:
        """The message without the traceback that torch puts before the message of a loader worker's error."""
        text = super().__str__()
        return text.rpartition(f"{type(self).__module__}.{type(self).__name__}: ")[2].strip() or text


class ConfigError(LimoeError):
    """A config key is unknown, has no value, or has a value that breaks a rule; the message begins with the key."""


class ArgumentError(LimoeError):
    """An argument of a constructor or function breaks a rule; the message names the argument, not a config key.

    A caller that knows where the argument was set, such as `limoe.config.objects.instantiate`, adds the dotted key.

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
    """Training produced a number that is not finite."""


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
    """Put `<name>.` before the argument of an `ArgumentError` that the part `name` raises inside the block."""
    try:
        yield
    except ArgumentError as error:
        raise ArgumentError(f"{name}.{error}", argument=f"{name}.{error.argument}") from error


def one_line(text: str) -> str:
    """Collapse white space to single blanks and escape control characters, so that a message stays one line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))
