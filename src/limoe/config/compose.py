"""Resolvers, checks across groups, instantiation and hash of a composed config."""

import copy
import hashlib
import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra.utils
from omegaconf import DictConfig, ListConfig, OmegaConf

import limoe
from limoe.config.errors import explained
from limoe.config.keys import with_factories
from limoe.config.model_settings import check_model, check_seen, require_positive_int, sparse_towers, towers
from limoe.config.targets import check_targets, locate_class
from limoe.errors import ConfigError, require
from limoe.losses.auxiliary.base import AuxLoss
from limoe.routing.base import Router
from limoe.types import MODALITIES

RUN_ID = "LIMOE_RUN_ID"
CONFIG_DIR = "LIMOE_CONFIG_DIR"
_PLACES = ("paths", "hydra")  # groups with the folders of a run, left out of its hash


def register_resolvers(*, help_text: str = "", groups: Callable[[], str] = str) -> None:
    """Register `${limoe_run_id:}`, `${limoe_help:}`, `${limoe_groups:}` and `${dataset_root:folder}`, before Hydra
    composes. `help_text` is the help of the command, `groups` returns the options of all groups.
    """
    OmegaConf.register_new_resolver("limoe_run_id", run_id, replace=True)
    OmegaConf.register_new_resolver("dataset_root", dataset_root, replace=True)
    OmegaConf.register_new_resolver("limoe_help", lambda: help_text.replace("$", "$$"), replace=True)
    OmegaConf.register_new_resolver("limoe_groups", lambda: groups().replace("$", "$$"), replace=True)


def run_id() -> str:
    """One name per command, passed to the processes it starts by the environment.

    A time stamp, or `slurm-<job>`, so that a requeued job finds its own folder again.
    """
    job = os.environ.get("SLURM_JOB_ID")
    name = f"slurm-{job}" if job else datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    return os.environ.setdefault(RUN_ID, name)


def dataset_root(folder: str, *, _root_: DictConfig) -> str:
    """Folder of a dataset: `data.root` if it is the run's own (`data.dataset`), else $LIMOE_DATA_DIR/<folder>.

    Evaluation tasks on the run's own dataset so use the same folder; those on other datasets work in any run.
    """
    data: Any = _root_.get("data") or {}
    if data.get("dataset") == folder and data.get("root") is not None:
        return str(data.root)
    return str(Path(os.environ.get("LIMOE_DATA_DIR", "data")) / folder)


def config_dir(name: str) -> Path:
    """Folder of the Hydra configs: $LIMOE_CONFIG_DIR if set, else ./configs, that of the clone, or that of the wheel.

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


def experiment_dir(named: Path, *, file: str) -> tuple[Path, Path]:
    """Folder of a study or a search, and the folder for its results.

    `named` is a folder that holds `file` (study.yaml or search.yaml), or the name of an experiment, with or without
    `experiments/` before it: in `./experiments`, else beside the configs in use, in a clone or in the wheel. Results go
    below a folder named by its path, else below `./experiments/<name>`; never into an installed package.
    """
    home = Path("experiments", named.name)
    for folder in (named, Path("experiments") / named):
        if (folder / file).is_file():
            is_installed = folder.resolve().is_relative_to(Path(limoe.__file__).parent)
            return folder, home if is_installed else folder
    shipped = config_dir(Path(file).stem).parent / home
    if named in (Path(named.name), home) and (shipped / file).is_file():
        return shipped, home
    return named, named


def own_config_dir(name: str) -> Path | None:
    """`./configs` of a project that adds options to those of limoe: one without a `<name>.yaml` of its own."""
    place = Path("configs")
    return place.resolve() if place.is_dir() and not (place / f"{name}.yaml").is_file() else None


def instantiate(node: DictConfig | ListConfig | dict[str, Any] | None, **kwargs: Any) -> Any:
    """`hydra.utils.instantiate` with plain containers and errors that name the key; `kwargs` are added to the node.

    Errors of a constructor name its arguments; `limoe.config.keys` adds the keys where they are set.

    Raises:
        ConfigError: unknown target, unknown or missing argument, a value the constructor refuses.
    """
    if node is None:
        return None
    source = node if isinstance(node, (DictConfig, ListConfig)) else OmegaConf.create(node)
    check_targets(node)
    with explained():
        return hydra.utils.instantiate(with_factories(source, kwargs), _convert_="all")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as dict, list, str and numbers, as checkpoints and records hold it.

    Raises:
        ConfigError: a value is missing, or an interpolation has no target.
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


def check(cfg: DictConfig) -> None:
    """Check the rules across groups, and others that should fail before data is read; raise `ConfigError`."""
    plain_cfg = plain(cfg)
    check_targets(cfg)
    require_positive_int("trainer.max_steps", plain_cfg["trainer"]["max_steps"])
    check_sizes(plain_cfg)
    _check_aux_loss(cfg, model=plain_cfg["model"], routing=plain_cfg["routing"])
    _check_parts(plain_cfg)
    _check_pixels(plain_cfg)


def check_sizes(cfg: dict[str, Any]) -> None:
    """Check the rules of model, routers and batch size in a config as plain containers; raise `ConfigError`."""
    batch_size = cfg["data"]["batch_size"]
    require_positive_int("data.batch_size", batch_size)
    check_model(cfg["model"])
    _check_routing(cfg["routing"], model=cfg["model"], batch_size=batch_size)


def _check_routing(routing: dict[str, Any], *, model: dict[str, Any], batch_size: int) -> None:
    k, pairs = routing.get("k", 1), routing.get("pairs_per_group")
    require_positive_int("routing.k", k)
    for key, tower in towers(model).items():
        require(k <= tower["num_experts"], "routing.k", f"at most {key}.num_experts={tower['num_experts']}", k)
    if pairs is not None and sparse_towers(model):
        require_positive_int("routing.pairs_per_group", pairs)
        rule = f"a multiple of routing.pairs_per_group={pairs} (null: one group)"
        require(batch_size % pairs == 0 or batch_size < pairs, "data.batch_size", rule, batch_size)


def _check_parts(cfg: dict[str, Any]) -> None:
    """Check the split into micro-batches: every pair keeps all its negatives, every routing group stays whole."""
    rule = "1 (accumulated batches do not share negatives; use micro_batch_size instead)"
    accumulated = cfg["trainer"].get("accumulate_grad_batches", 1)
    require(accumulated == 1, "trainer.accumulate_grad_batches", rule, accumulated)
    if (size := cfg.get("micro_batch_size")) is None:
        return
    require_positive_int("micro_batch_size", size)
    batch_size, pairs = cfg["data"]["batch_size"], cfg["routing"].get("pairs_per_group")
    require(batch_size % size == 0, "micro_batch_size", f"a divisor of data.batch_size={batch_size} (or null)", size)
    if pairs is not None and sparse_towers(cfg["model"]):
        rule = f"a multiple of routing.pairs_per_group={pairs} (else the capacity of the experts would change)"
        require(size % pairs == 0, "micro_batch_size", rule, size)


def _check_pixels(cfg: dict[str, Any]) -> None:
    """Require images of the model's size, and in [-1, 1] for a timm encoder, which normalizes them by itself."""
    size = cfg["model"]["image_size"]
    given = cfg["data"].get("image_size", size)
    require(given == size, "data.image_size", f"model.image_size={size}", given)
    image = cfg["model"].get("image", {"depth": 0})
    normalization = cfg.get("eval_transform", {}).get("normalization", "unit")
    rule = f"unit: {image.get('name')} normalizes images by itself"
    require("depth" in image or normalization == "unit", "eval_transform.normalization", rule, normalization)


def _check_aux_loss(cfg: DictConfig, *, model: dict[str, Any], routing: dict[str, Any]) -> None:
    if not cfg.aux_loss:
        return
    names = ", ".join(cfg.aux_loss)
    if not sparse_towers(model):
        raise ConfigError(f"model.moe_layers is empty (dense), but aux_loss ({names}) needs routers: add aux_loss=none")
    target = routing["_target_"]
    router: type[Router] = locate_class(target, Router, key="routing")
    if not router.learns:
        raise ConfigError(f"routing: {target} has no weights that aux_loss ({names}) could train: add aux_loss=none")
    for name, node in cfg.aux_loss.items():
        key = f"aux_loss.{name}"
        target = node.get("_target_") if isinstance(node, DictConfig) else None
        loss: type[AuxLoss] = locate_class(target, AuxLoss, key=key)
        if "min_experts" in node:
            _check_enough_experts(f"{key}.min_experts", node.min_experts, model=model)
        if (modality := node.get("modality")) in MODALITIES:
            check_seen(modality, loss=key, model=model)
        if loss.needs_noise:
            _check_noise(key, router=router, routing=routing)


def _check_enough_experts(key: str, min_experts: Any, *, model: dict[str, Any]) -> None:
    """Check a loss's number of experts against every sparse tower; other types are left to its constructor."""
    for tower, settings in sparse_towers(model).items():
        limit = settings["num_experts"]
        is_enough = not isinstance(min_experts, int | float) or min_experts <= limit
        require(is_enough, key, f"at most {tower}.num_experts={limit}", min_experts)


def _check_noise(key: str, *, router: type[Router], routing: dict[str, Any]) -> None:
    """Check that a loss of the K-th largest noisy logit has noise and a router that selects by that logit."""
    if not router.has_threshold:
        raise ConfigError(
            f"{key} is undefined with {router.__name__}, where no token chooses by its logits: drop it: ~{key}"
        )
    if routing.get("bias_balance") is not None:
        raise ConfigError(f"{key} is undefined with routing.bias_balance, where the bias chooses too: drop it: ~{key}")
    noise_std = routing.get("noise_std", 0)
    require(
        noise_std > 0, "routing.noise_std", f"> 0, since {key} is undefined without noise (drop it: ~{key})", noise_std
    )
