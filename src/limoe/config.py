"""From a composed config to objects: resolvers, checks across groups, instantiation, hash."""

import copy
import hashlib
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra.utils
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import limoe
from limoe.config_errors import explain
from limoe.config_targets import check_targets, locate, targets
from limoe.errors import ConfigError, require

RUN_ID = "LIMOE_RUN_ID"
CONFIG_DIR = "LIMOE_CONFIG_DIR"
_PLACES = ("paths", "hydra")  # where a run lies, not what it is


def register_resolvers(*, help_text: str = "") -> None:
    """`${limoe_run_id:}` and `${limoe_help:}`; must run before Hydra composes."""
    OmegaConf.register_new_resolver("limoe_run_id", run_id, replace=True)
    OmegaConf.register_new_resolver("limoe_help", lambda: help_text.replace("$", "$$"), replace=True)


def run_id() -> str:
    """One name per command, shared with the processes it starts through the environment.

    A time stamp, or `slurm-<job>`, so that a requeued job finds its own folder again.
    """
    job = os.environ.get("SLURM_JOB_ID")
    name = f"slurm-{job}" if job else datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    return os.environ.setdefault(RUN_ID, name)


def config_dir(name: str) -> Path:
    """Folder with the Hydra configs: $LIMOE_CONFIG_DIR, ./configs, beside the sources, in the wheel.

    Raises:
        ConfigError: none of them holds `<name>.yaml`.
    """
    package = Path(limoe.__file__).parent
    chosen = os.environ.get(CONFIG_DIR)
    places = [Path(chosen)] if chosen else [Path("configs"), package.parents[1] / "configs", package / "configs"]
    for place in places:
        if (place / f"{name}.yaml").is_file():
            return place.resolve()
    raise ConfigError(f"no {name}.yaml in {', '.join(str(place) for place in places)}; set {CONFIG_DIR} to the folder")


def instantiate(node: DictConfig | ListConfig | dict[str, Any] | None, **kwargs: Any) -> Any:
    """`hydra.utils.instantiate` with plain containers, whose errors name the key.

    Raises:
        ConfigError: unknown target, unknown or missing argument, a value the constructor refuses.
    """
    check_targets(node)
    try:
        return hydra.utils.instantiate(node, **{"_convert_": "all", **kwargs})
    except (HydraException, OmegaConfBaseException) as error:
        message = explain(error)
        if message is None:
            raise
        raise ConfigError(message) from error


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as dict, list, str and numbers: what checkpoints and records may hold.

    Raises:
        ConfigError: a value is missing, or an interpolation leads nowhere.
    """
    try:
        content = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def config_hash(cfg: DictConfig) -> str:
    """First 12 hex digits of the sha256 of what the run is, wherever and whenever it runs.

    Folders (`paths.*`, also where other keys refer to them) and Hydra's own settings are left out.
    """
    nameless = copy.deepcopy(cfg)
    OmegaConf.update(nameless, "paths", {key: f"<{key}>" for key in cfg.get("paths", {})}, force_add=True)
    content = {key: value for key, value in plain(nameless).items() if key not in _PLACES}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def check(cfg: DictConfig) -> None:
    """Rules that a single constructor cannot see, and those worth knowing before any data is read.

    Raises:
        ConfigError: a rule is broken.
    """
    plain_cfg = plain(cfg)
    check_targets(cfg)
    model, routing = plain_cfg["model"], plain_cfg["routing"]
    for key in ("width", "depth", "num_heads", "mlp_dim", "patch_size", "image_size", "num_experts"):
        _require_positive_int(f"model.{key}", model[key])
    _require_positive_int("data.batch_size", plain_cfg["data"]["batch_size"])
    _require_positive_int("trainer.max_steps", plain_cfg["trainer"]["max_steps"])
    _check_model(model)
    _check_routing(routing, model=model, batch_size=plain_cfg["data"]["batch_size"])
    _check_aux_loss(cfg, moe_layers=model["moe_layers"], routing=routing)


def _require_positive_int(key: str, value: Any) -> None:
    require(isinstance(value, int) and not isinstance(value, bool) and value > 0, key, "a whole number > 0", value)


def _check_model(model: dict[str, Any]) -> None:
    width, heads, image, patch = (model[key] for key in ("width", "num_heads", "image_size", "patch_size"))
    require(width % heads == 0, "model.width", f"a multiple of model.num_heads={heads}", width)
    require(image % patch == 0, "model.image_size", f"a multiple of model.patch_size={patch}", image)
    layers, depth = model["moe_layers"], model["depth"]
    require(isinstance(layers, list), "model.moe_layers", "a list of layer numbers, [] for a dense model", layers)
    inside = all(isinstance(layer, int) and 0 <= layer < depth for layer in layers)
    require(inside, "model.moe_layers", f"between 0 and model.depth - 1 = {depth - 1}", layers)
    require(len(set(layers)) == len(layers), "model.moe_layers", "without repetition", layers)


def _check_routing(routing: dict[str, Any], *, model: dict[str, Any], batch_size: int) -> None:
    k, experts, pairs = routing.get("k", 1), model["num_experts"], routing.get("pairs_per_group")
    _require_positive_int("routing.k", k)
    require(k <= experts, "routing.k", f"at most model.num_experts={experts}", k)
    if pairs is not None and model["moe_layers"]:
        _require_positive_int("routing.pairs_per_group", pairs)
        rule = f"a multiple of routing.pairs_per_group={pairs} (null: one group)"
        require(batch_size % pairs == 0 or batch_size < pairs, "data.batch_size", rule, batch_size)


def _check_aux_loss(cfg: DictConfig, *, moe_layers: list[int], routing: dict[str, Any]) -> None:
    if not cfg.aux_loss:
        return
    names = ", ".join(cfg.aux_loss)
    if not moe_layers:
        raise ConfigError(f"model.moe_layers is empty (dense), but aux_loss ({names}) needs routers: add aux_loss=none")
    target = routing.get("_target_", "limoe.routing.base.Router")
    router = locate(target, key="routing")
    if not getattr(router, "learns", True):
        raise ConfigError(f"routing: {target} learns nothing that aux_loss ({names}) could move: add aux_loss=none")
    for key, given in targets(cfg.aux_loss):
        if getattr(locate(given["_target_"], key=key), "needs_noise", False):
            _check_noise(key, router=router, routing=routing)


def _check_noise(key: str, *, router: Any, routing: dict[str, Any]) -> None:
    """A loss that reads the K-th largest noisy logit needs noise, and a router that chooses by that logit."""
    if not getattr(router, "has_threshold", True):
        raise ConfigError(
            f"{key} is undefined with {router.__name__}, where no token chooses by its logits: drop it: ~{key}"
        )
    if routing.get("bias_balance") is not None:
        raise ConfigError(f"{key} is undefined with routing.bias_balance, where the bias chooses too: drop it: ~{key}")
    noise_std = routing.get("noise_std", 0)
    require(
        noise_std > 0, "routing.noise_std", f"> 0, since {key} is undefined without noise (drop it: ~{key})", noise_std
    )
