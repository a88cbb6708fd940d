"""Settings of models of every kind: towers, rules, baselines."""

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from limoe.accounting.anatomy import anatomy
from limoe.accounting.flops import flops
from limoe.cli.commands.eval import evaluation_config
from limoe.config.checks import check
from limoe.config.model_settings import check_model, dense_baseline, sparse_towers, towers, two_tower_baseline
from limoe.config.objects import plain
from limoe.errors import ConfigError
from tests.helpers.configs import built, composed
from tests.helpers.paths import CONFIGS


def settings(name: str) -> dict[str, Any]:
    """The file and what it inherits, with the little it refers to; much faster than a whole config."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        model = compose(overrides=[f"+model={name}"])
    others = {"tokenizer": {"vocab_size": 4096, "length": 16}, "routing": {}}
    resolved: Any = OmegaConf.to_container(OmegaConf.merge(others, model), resolve=True)
    return resolved["model"]


@pytest.mark.parametrize(
    ("name", "all_towers", "sparse"),
    [
        ("limoe_tiny", ["model"], ["model"]),
        ("dense_tiny", ["model"], []),
        ("two_tower_tiny", ["model.image", "model.text"], []),
        ("two_tower_moe_tiny", ["model.image", "model.text"], ["model.image", "model.text"]),
        ("timm_tiny", ["model.text"], []),
    ],
)
def test_towers(name: str, all_towers: list[str], sparse: list[str]) -> None:
    model = settings(name)
    assert list(towers(model)) == all_towers and list(sparse_towers(model)) == sparse


def test_dense_differs_from_sparse_by_the_sparse_layers_alone() -> None:
    for size in ("tiny", "xs", "emoji", "s32", "s16", "s16_std", "b32", "b16", "l32", "l16", "h14"):
        assert settings(f"dense_{size}") == dense_baseline(settings(f"limoe_{size}"))
        assert dense_baseline(settings(f"limoe_{size}")) != settings(f"limoe_{size}")
    assert dense_baseline(settings("two_tower_moe_tiny")) == settings("two_tower_tiny")


@pytest.mark.parametrize("size", ["tiny", "xs", "emoji", "s32", "s16", "s16_std", "b32", "b16", "l32", "l16", "h14"])
def test_two_tower_baseline_is_the_two_tower_of_that_size(size: str) -> None:
    """Keys that a dense tower does not read aside."""
    baseline, model = two_tower_baseline(settings(f"limoe_{size}")), settings(f"two_tower_{size}")
    assert baseline.pop("image") == {key: model["image"][key] for key in baseline_keys("image")}
    assert baseline.pop("text") == {key: model["text"][key] for key in baseline_keys("text")}
    assert baseline == {key: value for key, value in model.items() if key not in ("image", "text", "image_head")}


def baseline_keys(modality: str) -> list[str]:
    keys = ["_target_", "_partial_", "width", "depth", "num_heads", "mlp_dim", "activation_checkpointing"]
    return [*keys, *(["patch_size"] if modality == "image" else [])]


def test_a_two_tower_has_no_two_tower_baseline() -> None:
    with pytest.raises(ConfigError, match="made of a one-tower model"):
        two_tower_baseline(settings("two_tower_tiny"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.image.width=130", "model.image.width must be a multiple of model.image.num_heads=4, got 130"),
        ("model.text.depth=0", "model.text.depth must be a whole number > 0, got 0"),
        ("model.image.patch_size=7", "model.image_size must be a multiple of model.image.patch_size=7, got 32"),
        ("model.text.moe_layers=[4]", "model.text.moe_layers must be between 0 and model.text.depth - 1 = 3, got [4]"),
        ("model.image.moe_layers=[1,1]", "model.image.moe_layers must be without repetition"),
        ("routing.k=9", "routing.k must be at most model.image.num_experts=8, got 9"),
    ],
)
def test_every_tower_is_checked(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(composed("model=two_tower_moe_tiny", override))
    assert words in str(caught.value)


def test_losses_need_a_sparse_layer_of_their_modality() -> None:
    check(composed("model=two_tower_tiny", "model.text.moe_layers=[1]", "aux_loss=[z,local_text]"))
    with pytest.raises(ConfigError, match=r"aux_loss\.global_image: no sparse layer of this model sees image tokens"):
        check(composed("model=two_tower_tiny", "model.text.moe_layers=[1]", "aux_loss=limoe"))
    with pytest.raises(ConfigError, match="add aux_loss=none"):
        check(composed("model=two_tower_tiny"))


def test_baselines_are_matched_in_flops() -> None:
    """At one expert per token sparse costs the dense and its routers: 6 x 212 x 32 x 768 multiply-adds for B/16."""
    sparse, dense, two = (
        flops(anatomy(built(f"model={n}")), pairs=8) for n in ("limoe_b16", "dense_b16", "two_tower_b16")
    )
    assert sparse["pair"] - dense["pair"] == 2 * 6 * 212 * 32 * 768
    assert dense == two


def test_a_model_without_towers_of_ours_only_needs_an_image_size() -> None:
    check_model({"image_size": 32, "image": {"name": "resnet50"}})


def test_evaluation_limits_the_slots_of_every_tower() -> None:
    run = plain(composed("model=two_tower_moe_tiny"))
    model = evaluation_config(run, composed("ckpt=run", "eval_capacity_factor=1.5", command="eval")).model
    assert model.image.router.eval_capacity_factor == model.text.router.eval_capacity_factor == 1.5
    with pytest.raises(ConfigError, match="it has no routers with slots to limit"):
        dense = plain(composed("model=two_tower_tiny", "aux_loss=none"))
        evaluation_config(dense, composed("ckpt=run", "eval_capacity_factor=1.5", command="eval"))


def test_a_tower_of_timm_normalises_by_itself() -> None:
    check(composed("model=timm_tiny", "aux_loss=none"))
    check(composed("model=two_tower_tiny", "aux_loss=none", "eval_transform.normalization=imagenet"))
    with pytest.raises(
        ConfigError, match=r"eval_transform\.normalization must be unit: vit_tiny_patch16_224 normalizes"
    ):
        check(composed("model=timm_tiny", "aux_loss=none", "eval_transform.normalization=imagenet"))
