"""Rules between parts of a config, checked before anything is built."""

from typing import Any

from omegaconf import DictConfig

from limoe.config.model_settings import check_model, require_positive_int, sparse_towers, towers
from limoe.config.objects import plain
from limoe.config.targets import check_targets, locate_class
from limoe.errors import ConfigError, require
from limoe.losses.auxiliary.base import AuxLoss
from limoe.routing.base import Router
from limoe.types import MODALITIES


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
            # against every sparse tower; other types than numbers are left to the constructor of the loss
            for tower, settings in sparse_towers(model).items():
                limit = settings["num_experts"]
                is_enough = not isinstance(node.min_experts, int | float) or node.min_experts <= limit
                require(is_enough, f"{key}.min_experts", f"at most {tower}.num_experts={limit}", node.min_experts)
        modality = node.get("modality")
        if modality in MODALITIES and not {"model", f"model.{modality}"} & sparse_towers(model).keys():
            raise ConfigError(f"{key}: no sparse layer of this model sees {modality} tokens; drop it: ~{key}")
        if loss.needs_noise:
            _check_noise(key, router=router, routing=routing)


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
