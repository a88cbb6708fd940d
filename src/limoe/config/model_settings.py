"""Settings of a model of any kind: its towers, their rules, compute-matched baselines."""

import copy
from typing import Any

from limoe.errors import ConfigError, require

ENCODERS = ("image", "text")
_SHAPE = ("width", "depth", "num_heads", "mlp_dim")
_TOWER_TARGETS = {name: f"limoe.models.encoders.{name.capitalize()}Encoder" for name in ENCODERS}

Settings = dict[str, Any]


def towers(model: Settings) -> dict[str, Settings]:
    """Dotted key -> settings of each tower of limoe: the model itself, or its encoders. Timm encoders are left out."""
    if "depth" in model:
        return {"model": model}
    parts = {f"model.{name}": model.get(name) for name in ENCODERS}
    return {key: part for key, part in parts.items() if isinstance(part, dict) and "depth" in part}


def sparse_towers(model: Settings) -> dict[str, Settings]:
    """Dotted key -> settings of the towers with sparse layers."""
    return {key: tower for key, tower in towers(model).items() if tower.get("moe_layers")}


def check_model(model: Settings) -> None:
    """Check the sizes of every tower against each other; raise `ConfigError`."""
    require_positive_int("model.image_size", model["image_size"])
    for key, tower in towers(model).items():
        for name in (*_SHAPE, "num_experts"):
            require_positive_int(f"{key}.{name}", tower[name])
        rule = f"a multiple of {key}.num_heads={tower['num_heads']}"
        require(tower["width"] % tower["num_heads"] == 0, f"{key}.width", rule, tower["width"])
        if "patch_size" in tower:
            require_positive_int(f"{key}.patch_size", patch := tower["patch_size"])
            rule = f"a multiple of {key}.patch_size={patch}"
            require(model["image_size"] % patch == 0, "model.image_size", rule, model["image_size"])
        layers, depth = tower["moe_layers"], tower["depth"]
        require(isinstance(layers, list), f"{key}.moe_layers", "a list of layer numbers, [] for a dense tower", layers)
        inside = all(isinstance(layer, int) and 0 <= layer < depth for layer in layers)
        require(inside, f"{key}.moe_layers", f"between 0 and {key}.depth - 1 = {depth - 1}", layers)
        require(len(set(layers)) == len(layers), f"{key}.moe_layers", "without repetition", layers)


def require_positive_int(key: str, value: Any) -> None:
    """Raise `ConfigError` unless the value of this key is a whole number > 0."""
    require(isinstance(value, int) and not isinstance(value, bool) and value > 0, key, "a whole number > 0", value)


def dense_baseline(model: Settings) -> Settings:
    """The same model with an MLP in place of every sparse layer."""
    baseline = copy.deepcopy(model)
    for tower in towers(baseline).values():
        tower["moe_layers"] = []
    return baseline


def two_tower_baseline(model: Settings) -> Settings:
    """Two dense towers, one per modality, each of the size of the one-tower model. Raises `ConfigError` if the model
    has two towers already.
    """
    if "depth" not in model:
        raise ConfigError("model: a two-tower baseline is made of a one-tower model")
    tower = {name: model[name] for name in (*_SHAPE, "activation_checkpointing") if name in model}
    shared = ("image_size", "vocab_size", "text_length", "out_dim", "init_logit_scale", "max_logit_scale")
    parts = {name: {"_target_": target, "_partial_": True, **tower} for name, target in _TOWER_TARGETS.items()}
    parts["image"]["patch_size"] = model["patch_size"]
    return {
        "_target_": "limoe.models.two_tower.TwoTower",
        **{name: model[name] for name in shared if name in model},
        **parts,
    }
