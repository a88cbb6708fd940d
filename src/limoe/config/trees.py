"""Nested mappings: flat, and with other values."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in nested mappings that is no mapping itself, or an empty one, in order."""
    if not isinstance(tree, Mapping) or not tree:
        yield prefix, tree
        return
    for key, value in tree.items():
        yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))


def mapped(tree: Any, change: Callable[[str, Any], Any], prefix: str = "") -> Any:
    """The same mappings and lists with `change(dotted key, value)` for every value; entries of a list have its key."""
    if isinstance(tree, Mapping):
        return {key: mapped(value, change, f"{prefix}.{key}" if prefix else str(key)) for key, value in tree.items()}
    if isinstance(tree, list):
        return [mapped(value, change, prefix) for value in tree]
    return change(prefix, tree)


def strict_json(tree: Any) -> Any:
    """The same with null for NaN and infinity, which JSON does not have."""

    def finite(_: str, value: Any) -> Any:
        has_no_word = isinstance(value, float) and not math.isfinite(value)
        return None if has_no_word else value

    return mapped(tree, finite)


def moved(value: Any, *, before: str, now: str) -> Any:
    """A path in or below folder `before` becomes one in or below folder `now`; anything else stays."""
    is_inside = isinstance(value, str) and (value == before or value.startswith(f"{before}/"))
    return now + value[len(before) :] if is_inside else value
