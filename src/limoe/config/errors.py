"""Errors of Hydra, OmegaConf and YAML as one line with the key or file and what to do."""

import contextlib
import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import hydra
import yaml
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from limoe.config.trees import leaves
from limoe.errors import ConfigError, LimoeError, one_line


@dataclass(frozen=True)
class Known:
    """Words to suggest for a mistyped one: dotted keys of the config, and options of a group."""

    keys: Callable[[], Iterable[str]] = tuple
    options: Callable[[str], Iterable[str]] = lambda group: ()


def composed_keys(name: str, overrides: Sequence[str], *, search_path: Sequence[str] = ()) -> list[str]:
    """Dotted keys of the config `name` with the groups that `overrides` choose, or by default where those fail.

    Hydra must be initialised; `search_path` are overrides that extend its search path.
    """
    groups = [word for word in overrides if "." not in word.partition("=")[0]]
    for chosen in (groups, []):
        with contextlib.suppress(Exception):
            cfg = hydra.compose(name, overrides=[*search_path, *chosen])
            keys = (key for key, _ in leaves(OmegaConf.to_container(cfg, resolve=False)))
            return list(dict.fromkeys(part for key in keys for part in accumulate(key.split("."), "{}.{}".format)))
    return []


def explain(error: BaseException, *, known: Known | None = None) -> str | None:
    """One line for an error that the user can fix, followed by its details if it has any; None for any other error."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, LimoeError):
        cause = cause.__cause__
    if isinstance(cause, LimoeError):
        return "\n".join(filter(None, [one_line(str(cause)), cause.details]))
    message = _explain_known(error, known or Known())
    return None if message is None else one_line(message)


@contextlib.contextmanager
def explained(*, known: Known | None = None) -> Iterator[None]:
    """Raise a one-line `ConfigError` in place of an error that the user can fix; other errors pass."""
    try:
        yield
    except Exception as error:
        message = explain(error, known=known)
        if message is None:
            raise
        raise ConfigError(message) from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word, empty where nothing is near."""
    near = difflib.get_close_matches(word, sorted(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def yaml_problem(error: yaml.MarkedYAMLError) -> str:
    """`line 3: <problem>`, lines counted from 1."""
    mark = error.problem_mark or error.context_mark
    return f"{f'line {mark.line + 1}: ' if mark else ''}{error.problem or error.context}"


def _explain_known(error: BaseException, known: Known) -> str | None:
    match error:
        case InstantiationException():
            return _instantiation(error)
        case MissingConfigException():
            return _missing_option(error, known)
        case OverrideParseException():
            return f"cannot read the override {error.override!r}: {_first_line(error, skip='Error parsing')}"
        case ConfigCompositionException():
            return _composition(error, known)
        case MissingMandatoryValue():
            return f"{error.full_key} needs a value: add {error.full_key}=..."
        case OmegaConfBaseException():
            return f"{error.full_key}: {_first_line(error)}" if error.full_key else _first_line(error)
        case yaml.MarkedYAMLError():
            mark = error.problem_mark or error.context_mark
            return f"{mark.name}, {yaml_problem(error)}" if mark else yaml_problem(error)
        case HydraException() | yaml.YAMLError():
            return str(error)
    return None


def _first_line(error: BaseException, *, skip: str = "\0") -> str:
    lines = [line for line in str(error).splitlines() if line and not line.startswith(skip)]
    return lines[0] if lines else type(error).__name__


def _missing_option(error: MissingConfigException, known: Known) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if not group:
        return f"there is no config {option!r}" if option else _first_line(error)
    found = error.options or known.options(group)
    options = sorted(option for option in found if not option.startswith("_"))  # such files are shared by the others
    listed = f" (options: {', '.join(options)})" if options else ""
    return f"{group} has no option {option!r}{did_you_mean(option, options)}{listed}"


def _composition(error: ConfigCompositionException, known: Known) -> str:
    text = str(error)
    unknown = re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text)
    if unknown:
        return f"unknown key {unknown[1]!r}{_nearest_key(unknown[1], list(known.keys()))}"
    if text.startswith("Ambiguous value"):
        return f"{_first_line(error)}: add -m to sweep over the values, or write a list: key=[a,b]"
    because = _explain_known(error.__cause__, known) if error.__cause__ is not None else None
    return ": ".join(part for part in (text, because) if part) or type(error).__name__


def _nearest_key(key: str, known: list[str]) -> str:
    """Suggest the nearest key of the same node, else of any node by its last word (`k`: `routing.k`), else list the
    keys of the node."""
    parent, _, word = key.rpartition(".")
    beside = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == parent}
    anywhere = {k.rpartition(".")[2]: k for k in reversed(known)}
    for by_word in (beside, anywhere):
        near = difflib.get_close_matches(word, by_word, n=1)
        if near:
            return f"; did you mean {by_word[near[0]]!r}?"
    return f" ({parent or 'the config'} has: {', '.join(beside)})" if beside else ""


def _instantiation(error: InstantiationException) -> str | None:
    """Line for a target that cannot be found; errors of constructors are explained by `limoe.config.keys`."""
    cause = error.__cause__
    text = str(error)
    if cause is not None and not text.startswith("Error locating"):
        return None
    key = re.search(r"full_key: (\S+)", text)
    where = f"{key[1].removesuffix('._make')}: " if key else ""
    return where + (_first_line(error) if cause is None else _not_found(cause))


def _not_found(cause: BaseException) -> str:
    """Line for a missing name in a module; Hydra's own message reports a missing module of that name."""
    text = str(cause)
    names = re.search(r"that '(\w+)' is (?:importable from module|an attribute of) '([\w.]+)'", text)
    if names is None:
        return text
    name, parent = names.groups()
    missing = cause.__cause__
    if isinstance(missing, ImportError) and missing.name != f"{parent}.{name}":
        return text  # the module exists, one of its imports does not
    return f"{parent} has no {name!r}{did_you_mean(name, dir(sys.modules[parent]) if parent in sys.modules else ())}"
