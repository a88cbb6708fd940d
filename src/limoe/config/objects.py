"""From a composed config to objects, plain containers and a hash."""

import copy
import hashlib
import json
from typing import Any

import hydra.utils
from omegaconf import DictConfig, ListConfig, OmegaConf

from limoe.config.errors import explained
from limoe.config.keys import with_factories
from limoe.config.targets import check_targets

_PLACES = ("paths", "hydra")  # groups with the folders of a run, left out of its hash


def instantiate(node: DictConfig | ListConfig | dict[str, Any] | None, **kwargs: Any) -> Any:
    """`hydra.utils.instantiate` with plain containers and errors that name the key; `kwargs` are added to the node.

    Errors of a constructor name its arguments; `limoe.config.keys` adds the keys where they are set.
    Raises `ConfigError` for unknown target, unknown or missing argument, a value the constructor refuses.
    """
    if node is None:
        return None
    source = node if isinstance(node, (DictConfig, ListConfig)) else OmegaConf.create(node)
    check_targets(node)
    with explained():
        return hydra.utils.instantiate(with_factories(source, kwargs), _convert_="all")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as dict, list, str and numbers, as checkpoints and records hold it. Raises `ConfigError` if a
    value is missing, or an interpolation has no target.
    """
    with explained():
        content = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def config_hash(cfg: DictConfig) -> str:
    """First 12 hex digits of the sha256 of the config, independent of place and time of the run.

    Folders (`paths.*`, also where other keys refer to them) and Hydra's own settings are left out.
    """
    nameless = copy.deepcopy(cfg)
    OmegaConf.update(nameless, "paths", {key: f"<{key}>" for key in cfg.get("paths", {})}, force_add=True)
    content = {key: value for key, value in plain(nameless).items() if key not in _PLACES}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
