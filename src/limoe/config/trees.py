"""Operations on nested mappings: flatten, map values, make strict JSON."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every value in nested mappings that is not a non-empty mapping, in order."""
    if not isinstance(tree, Mapping) or not tree:
        yield prefix, tree
        return
    for key, value in tree.items():
        yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))


def mapped(tree: Any, change: Callable[[str, Any], Any], prefix: str = "") -> Any:
    """A copy with `change(dotted key, value)` in place of every value; entries of a list have the list's key."""
    if isinstance(tree, Mapping):
        return {key: mapped(value, change, f"{prefix}.{key}" if prefix else str(key)) for key, value in tree.items()}
    if isinstance(tree, list):
        return [mapped(value, change, prefix) for value in tree]
    return change(prefix, tree)


def strict_json(tree: Any) -> Any:
    """A copy with None in place of NaN and infinity, which JSON does not have."""

    def finite(_: str, value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return mapped(tree, finite)


def moved(value: Any, *, before: str, now: str) -> Any:
    """Replace the folder `before` by `now` in a path in or below it; return anything else unchanged."""
    is_inside = isinstance(value, str) and (value == before or value.startswith(f"{before}/"))
    return now + value[len(before) :] if is_inside else value
