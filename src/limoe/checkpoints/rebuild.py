"""Objects from `_target_` trees without Hydra, for files from unknown sources.

Narrower than the targets of a config: only parts of a model are allowed; classes are built, and functions are never
called, only bound (`_partial_: true`).
"""

import importlib
import inspect
from functools import partial
from typing import Any

from limoe.errors import ArgumentError, DataError

ALLOWED = ("limoe.models.", "limoe.routing.", "limoe.data.images.transforms.")
_SPECIAL = ("_target_", "_partial_")


def rebuild(node: Any, *, key: str) -> Any:
    """The same object as `hydra.utils.instantiate(..., _convert_="all")`, from a tree of dicts, lists and values.

    `key` names the tree in errors.
    Raises `DataError` for a target that is unknown or not allowed, or arguments that it refuses.
    """
    if isinstance(node, list):
        return [rebuild(value, key=f"{key}[{index}]") for index, value in enumerate(node)]
    if not isinstance(node, dict):
        return node
    content = {name: rebuild(value, key=f"{key}.{name}") for name, value in node.items() if name not in _SPECIAL}
    special = [name for name in content if name.startswith("_") and name.endswith("_")]
    if special:
        raise DataError(f"{key}.{special[0]} is a setting of Hydra that an exported model cannot have")
    if "_target_" not in node:
        return content
    target = _locate(node["_target_"], key=f"{key}._target_")
    if node.get("_partial_"):
        return partial(target, **content)
    if not inspect.isclass(target):
        raise DataError(f"{key}._target_: {node['_target_']} is a function, which is only allowed with _partial_: true")
    try:
        return target(**content)
    except ArgumentError as error:
        raise DataError(f"{key}: {error}") from error
    except TypeError as error:
        raise DataError(f"{key}: {target.__name__}: {error}; was it exported by another version of limoe?") from error


def _locate(target: Any, *, key: str) -> Any:
    """The class or function with this path in the module that defines it; names that a module imports are refused."""
    if not isinstance(target, str) or not target.startswith(ALLOWED):
        raise DataError(f"{key}: {target!r} is not allowed in an exported model (only {', '.join(ALLOWED)}*)")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DataError(f"{key}: cannot find {target!r}; was it exported by another version of limoe?") from error
    if not (inspect.isclass(found) or inspect.isfunction(found)) or found.__module__ != module:
        raise DataError(f"{key}: {target!r} is no class or function of {module}")
    return found
