"""Check of the keys beside a `_target_` against its signature, before anything is built."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from limoe.config.errors import did_you_mean
from limoe.errors import ConfigError, require

SPECIAL = {"_target_", "_args_", "_partial_", "_recursive_", "_convert_"}
_TRUSTED = ("limoe.", "torch.", "torchmetrics.", "torchvision.", "timm.", "lightning.")


def check_targets(node: Any) -> None:
    """Check that every key is an argument of its target. Targets outside limoe and its dependencies are not checked.
    Raises `ConfigError` if a target does not exist, or a key is not among its arguments.
    """
    if not isinstance(node, (DictConfig, ListConfig)):
        return
    for key, given in _walk(OmegaConf.to_container(node, resolve=False), node._get_full_key("") or ""):
        target = given["_target_"]
        names = _argument_names(locate(target, key=key))
        if names is None:
            continue
        for name in given:
            if name not in names | SPECIAL:
                raise ConfigError(f"{_join(key, name)}: {target} has no such argument{did_you_mean(name, names)}")


def locate(target: str, *, key: str = "") -> Callable[..., Any]:
    """The class or function at a dotted path. Raises `ConfigError` if it does not exist."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        near = did_you_mean(name, dir(error.obj)) if isinstance(error, AttributeError) else ""
        raise ConfigError(f"{_join(key, '_target_')}: cannot find {target!r} ({error}){near}") from error


def locate_class(target: Any, base: Any, *, key: str) -> Any:
    """The class at a dotted path, which must derive from `base`. Raises `ConfigError` if it does not exist, or does not
    derive from `base`.
    """
    rule = f"the path of a class derived from {base.__module__}.{base.__name__}"
    require(isinstance(target, str), f"{key}._target_", rule, target)
    found: Any = locate(target, key=key)
    require(inspect.isclass(found) and issubclass(found, base), f"{key}._target_", rule, target)
    return found


def _walk(content: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(dotted key, unresolved content) of every dict with a `_target_` of a trusted package, outermost first."""
    if isinstance(content, dict):
        if str(content.get("_target_")).startswith(_TRUSTED):
            yield key, content
        for name, value in content.items():
            yield from _walk(value, _join(key, str(name)))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _walk(value, f"{key}[{index}]")


def _argument_names(target: Callable[..., Any]) -> set[str] | None:
    """Names of the arguments; None if any name is accepted (`**kwargs`) or the signature cannot be read.

    A class of limoe with `**kwargs` passes them to its parent, so the parent's arguments count too.
    """
    names: set[str] = set()
    callees = [target]
    if inspect.isclass(target) and target.__module__.startswith("limoe."):
        callees = [vars(kind)["__init__"] for kind in inspect.getmro(target) if "__init__" in vars(kind)]
    for callee in callees:
        try:
            parameters = inspect.signature(callee).parameters.values()
        except (TypeError, ValueError):
            return None
        names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            return names - {"self"}
    return None


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
