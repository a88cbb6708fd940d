"""Names of variants that nobody has named: what differs from the baseline, as short as it can be read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SHOWN = 2  # differences in a name; the others are counted
_ALWAYS = ("experiment", "debug")  # choices that leave no key of their own
_BASELINE, _UNKNOWN = "baseline", "config unknown"


@dataclass(frozen=True)
class Unnamed:
    """One variant: its config, what was said on the command line, and the name of it in a study, if it has one."""

    config: Mapping[str, Any]
    overrides: tuple[str, ...] = ()
    given: str = ""


def variant_names(variants: Sequence[Unnamed], *, baseline: int = 0) -> list[str]:
    """One name each, all different.

    A name given by a study stays, as long as no other variant bears it. The others are called by the overrides that
    the baseline's command line has not and that change the config, else by the config keys that differ. The baseline
    is called by its own values of what the others change, where those are one or two keys.
    """
    base = variants[baseline]
    given = [variant.given for variant in variants]
    words = [_differences(variant, base) for variant in variants]
    names: list[str] = []
    for number, variant in enumerate(variants):
        if variant.given and given.count(variant.given) == 1:
            name = variant.given
        elif number == baseline:
            name = _baseline_name(base, [part for i, parts in enumerate(words) if i != number for part in parts])
        elif not variant.config:
            name = _UNKNOWN
        else:
            name = _shortened(words[number])
            if name in names or not name:
                name = _shortened(_unique(_changes(base.config, variant.config)))
        names.append(_other(name or "same config", names))
    return names


def _differences(own: Unnamed, base: Unnamed) -> list[str]:
    """Overrides that `base` has not and that change something; without any the keys that differ."""
    if not own.config:
        return []
    changes = _unique(_changes(base.config, own.config))
    keys = list(_changed_keys(base.config, own.config))
    parts = [word for word in own.overrides if word not in base.overrides and _matters(word, keys)]
    said = {_key(word) for word in own.overrides}
    dropped = [word for word in base.overrides if _key(word) not in said and _matters(word, keys)]
    parts += [_setting(own.config, _key(word)) or f"default {_key(word)}" for word in dropped]
    return parts or changes


def _matters(override: str, changed: Sequence[str]) -> bool:
    """Whether it sets, holds, or lies in a key that changed; choices that leave no key of their own always do."""
    key = _key(override)
    return key in _ALWAYS or any(f"{other}.".startswith(f"{key}.") or key.startswith(f"{other}.") for other in changed)


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")


def _baseline_name(base: Unnamed, others: Sequence[str]) -> str:
    keys = list(dict.fromkeys(_key(part.removeprefix("default ")) for part in others))
    said = {_key(word): word for word in base.overrides}
    found = [said.get(key) or _setting(base.config, key) for key in keys]
    known = [part for part in found if part]
    if not keys:
        return said.get("experiment", _BASELINE)
    return ", ".join(known) if len(known) == len(keys) <= _SHOWN else _BASELINE


def _setting(config: Any, dotted: str) -> str:
    """`key=value`; empty where there is no such key, or it holds more than a value."""
    value = config
    for part in dotted.split("."):
        if not isinstance(value, dict) or part not in value:
            return ""
        value = value[part]
    return "" if isinstance(value, dict) else f"{dotted}={_shown(value)}"


def _changes(base: Mapping[str, Any], own: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`key=value`, `no key`, `with key`; a part with another target is one difference, whatever lies below."""
    for key in {**base, **own}:
        before, after, name = base.get(key), own.get(key), f"{prefix}{key}"
        if before == after:
            continue
        if key not in own:
            yield f"no {name}"
        elif isinstance(before, dict) and isinstance(after, dict) and before.get("_target_") == after.get("_target_"):
            yield from _changes(before, after, f"{name}.")
        elif isinstance(after, dict) and "_target_" in after:
            yield f"{name}={str(after['_target_']).rpartition('.')[2]}"
        else:
            yield f"with {name}" if isinstance(after, dict) else f"{name}={_shown(after)}"


def _changed_keys(base: Any, own: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(base, dict) and isinstance(own, dict):
        for key in {**base, **own}:
            if base.get(key) != own.get(key):
                yield from _changed_keys(base.get(key), own.get(key), f"{prefix}{key}.")
    else:
        yield prefix.removesuffix(".")


def _unique(changes: Iterator[str]) -> list[str]:
    """Of a value that stands in several places of the config the shortest key."""
    shortest: dict[str, str] = {}
    for change in changes:
        key, _, value = change.partition("=")
        last = f"{key.rpartition('.')[2]}={value}"
        if last not in shortest or len(change) < len(shortest[last]):
            shortest[last] = change
    return list(shortest.values())


def _shortened(parts: Sequence[str]) -> str:
    more = len(parts) - _SHOWN
    return ", ".join(parts[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _other(name: str, taken: Sequence[str]) -> str:
    """The name itself, or with the first number that makes it a new one."""
    numbered = (f"{name} ({number})" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"[{','.join(map(_shown, value))}]" if isinstance(value, list) else str(value)
