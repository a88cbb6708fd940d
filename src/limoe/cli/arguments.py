"""Parsing of a command's arguments: Hydra's options, overrides, positional arguments."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from limoe.config.errors import did_you_mean
from limoe.config.overrides import quoted
from limoe.errors import ConfigError

_FLAGS = {"--help", "-h", "--resolve", "--multirun", "-m", "--run", "-r", "--hydra-help", "--shell-completion", "-sc"}
_WITH_VALUE = {"--cfg", "-c", "--package", "-p", "--config-name", "-cn", "--config-dir", "-cd"}
_CFG, _CFG_KINDS = {"--cfg", "-c"}, {"job", "hydra", "all"}
_INFO, _INFO_KINDS = {"--info", "-i"}, {"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"}


def split(words: Sequence[str], *, flags: Mapping[str, str] = MappingProxyType({})) -> tuple[list[str], list[str]]:
    """(options with their values, everything else), each in order, since Hydra reads options before overrides.

    `flags`: options of the command -> the overrides that they stand for.
    Raises `ConfigError` for an option that neither Hydra nor the command has, or one without its value.
    """
    options: list[str] = []
    others: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-" or word in flags:
            others.append(flags.get(word, word))
            continue
        name, _, value = word.partition("=")
        if name in _FLAGS:
            options.append(word)
        elif name in _INFO:
            takes_next = not value and rest and rest[0] in _INFO_KINDS
            options += [name, value or (rest.pop(0) if takes_next else "all")]
        elif name in _WITH_VALUE:
            if not value and not rest:
                raise ConfigError(f"option {name} needs a value")
            options += [name, value or rest.pop(0)]
        else:
            raise ConfigError(f"unknown option {name!r}{did_you_mean(name, _FLAGS | _WITH_VALUE | _INFO | {*flags})}")
        kinds = _CFG_KINDS if name in _CFG else _INFO_KINDS if name in _INFO else None
        if kinds is not None and options[-1] not in kinds:
            raise ConfigError(f"option {name} must be one of {', '.join(sorted(kinds))}, got {options[-1]!r}")
    return options, others


def overrides(words: Sequence[str], *, positional: str | list[str] | None) -> list[str]:
    """Keep words with `=` (or `~`); make the others the value of the command's positional key. Raises `ConfigError` for
    more words without `=` than the command takes.
    """
    values = [word for word in words if "=" not in word and not word.startswith("~")]
    kept = [word for word in words if "=" in word or word.startswith("~")]
    if not values:
        return kept
    if isinstance(positional, list):
        return [f"{positional[0]}=[{','.join(quoted(value) for value in values)}]", *kept]
    if positional is not None and len(values) == 1:
        return [f"{positional}={quoted(values[0])}", *kept]
    surplus = values[0] if positional is None else values[1]
    raise ConfigError(f"cannot read {surplus!r}: an override is key=value, such as seed=1")
