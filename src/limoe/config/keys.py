"""Config keys of constructor arguments, added to errors about these arguments.

Constructors name their own arguments only (`limoe.errors.require_argument`). The key is that of the written value:
for `data.module.batch_size: ${data.batch_size}` it is `data.batch_size`, and the router of a model, `${routing}`, has
its keys in `routing`.
"""

import contextlib
import functools
import inspect
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.base import Node

from limoe.config.targets import SPECIAL
from limoe.errors import ArgumentError, ConfigError, LimoeError

MAKE = "_make"  # argument of `factory`: the node itself


@dataclass(frozen=True)
class Place:
    """Dotted key of a node with a `_target_`, and dotted keys of the arguments it holds."""

    key: str
    arguments: dict[str, str]

    @classmethod
    def of(cls, node: Node) -> "Place":
        """The place of a node; of a list or a value without arguments."""
        names = list(node) if isinstance(node, DictConfig) and not node._is_none() else []
        return cls(_key(node), {str(name): _key(_child(node, name)) for name in names if name not in SPECIAL})

    def refusal(self, error: BaseException, *, is_outermost: bool) -> str | None:
        """One line for an error of a constructor about its arguments; None if it is not about arguments of this node.

        None is returned for a bug in limoe, an error that already has its key, and, unless this place `is_outermost`,
        an argument that this node does not hold: a parent passed it on, and the parent's place has its key.
        """
        if isinstance(error, ArgumentError):
            argument = re.split(r"[.\[]", error.argument)[0]
            if argument in self.arguments:
                return self.arguments[argument] + str(error).removeprefix(argument)
            return f"{self.key}: {error}" if is_outermost else None
        if isinstance(error, LimoeError):
            return None
        is_about_values = (
            isinstance(error, (ValueError, OSError)) or type(error).__name__ == "MisconfigurationException"
        )
        if is_about_values or _is_signature_error(error):
            return f"{self.key}: {error}"
        if isinstance(error, TypeError) and _last_frame(error).f_code.co_name == "__init__":
            return f"{self.key}: {error}; is a value of the wrong type?"
        return None

    @contextlib.contextmanager
    def keys_added(self, *, is_outermost: bool) -> Iterator[None]:
        """Raise a `ConfigError` with the key in place of an error inside the block that `refusal` explains."""
        try:
            yield
        except Exception as error:
            message = self.refusal(error, is_outermost=is_outermost)
            if message is None:
                raise
            raise ConfigError(message) from error


def built(make: Callable[..., Any], place: Place, is_outermost: bool, /, *args: Any, **kwargs: Any) -> Any:
    """The object that `make`, the partial that Hydra made of a node, builds; errors have the keys of its place."""
    with place.keys_added(is_outermost=is_outermost):
        return make(*args, **kwargs)


def with_factories(node: DictConfig | ListConfig, changes: dict[str, Any]) -> DictConfig | ListConfig:
    """A resolved copy of `node` with `changes`, in which Hydra finds `factory` around every node with a `_target_`.
    Raises `ConfigError` if an argument of a node that is not partial has no value (`???`).
    """
    # not `OmegaConf.resolve`, which also resolves nodes outside of `node` in place
    content = OmegaConf.to_container(node, resolve=True)
    if isinstance(content, dict):
        content |= changes
    ready = OmegaConf.create(_wrapped(content, node, is_top=True), flags={"allow_objects": True})
    ready._set_parent(node._get_parent())
    ready._set_key(node._key())
    return ready


def factory(*, _make: Any, key: str, arguments: dict[str, str], is_partial: bool, is_top: bool) -> Any:
    """The target that `with_factories` writes: the object, or with `_partial_: true` its factory.

    A partial function below another node stays as Hydra made it: the object calls it as a function, such as a priority
    in every forward pass.
    """
    if is_partial and not is_top and not inspect.isclass(_make.func):
        return _make
    make = functools.partial(built, _make, Place(key, arguments), is_top or not is_partial)
    return make if is_partial else make()


def arguments_of(node: DictConfig) -> contextlib.AbstractContextManager[None]:
    """Add config keys to errors that an object made of `node` raises about its arguments after construction."""
    return Place.of(node).keys_added(is_outermost=True)


def _wrapped(content: Any, node: Node, *, is_top: bool = False) -> Any:
    """`content` with `factory` around its targets; `node` is the same content, unresolved."""
    if isinstance(content, list):
        return [_wrapped(value, _child(node, index)) for index, value in enumerate(content)]
    if not isinstance(content, dict):
        return content
    inner = content  # with `_recursive_: false` the target itself gets the nodes below it
    if content.get("_recursive_", True):
        inner = {name: _wrapped(value, _child(node, name)) for name, value in content.items()}
    if "_target_" not in inner:
        return inner
    place = Place.of(node)
    is_partial = inner.get("_partial_", False)
    for name, value in inner.items():
        if value == "???" and not is_partial:
            raise ConfigError(f"{place.arguments[name]} needs a value: add {place.arguments[name]}=...")
    return {
        "_target_": f"{__name__}.{factory.__name__}",
        MAKE: {**inner, "_partial_": True},
        "key": place.key,
        "arguments": place.arguments,
        "is_partial": is_partial,
        "is_top": is_top,
        "_convert_": "all",
    }


def _child(node: Node, name: Any) -> Node:
    """Child of `node`, with interpolations followed; the node itself where it has no such child."""
    child = node._get_node(name, validate_access=False) if isinstance(node, (DictConfig, ListConfig)) else None
    return child._dereference_node() if isinstance(child, Node) else node


def _key(node: Node) -> str:
    """Dotted key of a node, from its parent: a dict in a list would give it without the brackets."""
    parent = node._get_parent()
    return parent._get_full_key(node._key()) if parent is not None else ""


def _is_signature_error(error: BaseException) -> bool:
    """True for a TypeError of the call itself (missing or unexpected argument): no frame below Hydra's or this file's.

    Also true for one of a parent's constructor that a subclass calls with its remaining arguments.
    """
    if not isinstance(error, TypeError):
        return False
    of_constructor = re.search(r"__init__\(\) (got an unexpected keyword|missing \d+ required)", str(error))
    return of_constructor is not None or _last_frame(error).f_globals["__name__"].startswith(("hydra.", __name__))


def _last_frame(error: BaseException) -> Any:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame
