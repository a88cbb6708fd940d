"""Which losses go with which router, typos in inherited settings, and the systems of the field as experiments."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from limoe.build import build_module
from limoe.config.checks import check
from limoe.config.objects import instantiate
from limoe.config.places import register_resolvers
from limoe.errors import ConfigError
from limoe.routing.priority import bpr, first_come
from limoe.types import Batch
from tests.helpers.builders import tiny_batch
from tests.helpers.commands import limoe
from tests.helpers.paths import CONFIGS

SYSTEMS = ("system_glam", "system_gshard", "system_st_moe", "system_switch", "system_task_moe", "system_vmoe")
SMALL = ["model.width=32", "model.num_heads=2", "model.mlp_dim=32"]


def composed(*overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", overrides=[*overrides, "paths.output_dir=out"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["routing=hash"],
            "routing: limoe.routing.fixed.HashRouter has no weights that aux_loss (importance, load, z,",
        ),
        (["routing=random", "aux_loss=z"], "has no weights that aux_loss (z) could train: add aux_loss=none"),
        (["routing=expert_choice"], "aux_loss.load is undefined with ExpertChoiceRouter"),
        (["routing=soft"], "drop it: ~aux_loss.load"),
        (["routing.bias_balance={rule: sign}"], "aux_loss.load is undefined with routing.bias_balance"),
        (["routing.noise_std=0"], "routing.noise_std must be > 0, since aux_loss.load is undefined without noise"),
        (["routing=per_modality", "+routing.capacity_facter=1"], "did you mean 'capacity_factor'"),
        (["routing=modality_experts", "+routing.noise_sdt=1"], "did you mean 'noise_std'"),
    ],
)
def test_refused_in_one_line(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(composed(*overrides))
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["routing=expert_choice", "~aux_loss.load"],
        ["routing=hash", "aux_loss=none"],
        ["routing.bias_balance={rule: z_score}", "aux_loss=[local_text,global_text]"],
    ],
)
def test_accepted(overrides: list[str]) -> None:
    check(composed(*overrides))


def test_bias_balance_can_be_asked_for_on_the_command_line() -> None:
    cfg = composed("routing.bias_balance={rule: z_score, per_modality: true}")
    router = instantiate(cfg.routing)(4, num_experts=3)
    assert (router.balance.rule, router.balance.per_modality, router.balance.rate) == ("z_score", True, 1e-3)


def batch_for(cfg: DictConfig) -> Batch:
    """Random pairs in the sizes of a config."""
    small, size, length = tiny_batch(pairs=8), cfg.model.image_size, cfg.model.text_length
    ids = torch.randint(1, 9, (8, length))
    mask = torch.arange(length) < torch.arange(2, 10)[:, None]
    return Batch(torch.rand(8, 3, size, size), ids * mask, mask, small.sample)


@pytest.mark.parametrize("name", SYSTEMS)
def test_system_computes_and_its_router_learns(name: str) -> None:
    cfg = composed(f"experiment={name}", *SMALL, "tokenizer.vocab_size=64")
    check(cfg)
    lit = build_module(cfg)
    batch = batch_for(cfg)
    lit.log = lit.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    loss = lit.training_step(batch, 0)["loss"]
    loss.backward()
    assert loss.isfinite()
    weight = lit.model.tower.blocks[1].mlp.router.weight
    assert weight.grad.isfinite().all() and weight.grad.any()


@pytest.mark.parametrize(
    ("name", "words"),
    [("system_basic", []), ("system_clip", []), ("system_lit", ["model.image.pretrained=false"])],
)
def test_system_of_two_towers_learns(name: str, words: list[str]) -> None:
    cfg = composed(f"experiment={name}", *words, "tokenizer.vocab_size=300")
    check(cfg)
    lit = build_module(cfg)
    lit.log = lit.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    loss = lit.training_step(batch_for(cfg), 0)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.any() for p in lit.model.text.tower.blocks[0].attn.parameters())


# What section of which paper is rebuilt: number of experts, K, training and evaluation capacity, renormalised gates.
FACTS: dict[str, dict[str, Any]] = {
    "system_vmoe": {"k": 2, "capacity_factor": 1.05, "renormalize_gates": False, "aux": {"importance", "load"}},
    "system_gshard": {"k": 2, "capacity_factor": 1.0, "renormalize_gates": True, "aux": {"gshard"}},
    "system_switch": {"k": 1, "capacity_factor": 1.25, "renormalize_gates": False, "aux": {"switch"}},
    "system_st_moe": {"k": 2, "capacity_factor": 1.25, "renormalize_gates": True, "aux": {"gshard", "z"}},
    "system_glam": {"k": 2, "capacity_factor": 1.0, "renormalize_gates": True, "aux": {"gshard"}},
    "system_task_moe": {"k": 1, "capacity_factor": 1.05, "renormalize_gates": False, "aux": {"switch"}},
}


def test_systems_are_what_their_papers_say() -> None:
    assert set(SYSTEMS) == set(FACTS)  # the other ones have two towers
    for name, facts in FACTS.items():
        cfg = composed(f"experiment={name}")
        assert set(cfg.aux_loss) == facts["aux"], name
        for key in ("k", "capacity_factor", "renormalize_gates"):
            assert cfg.routing[key] == facts[key], (name, key)
        router = instantiate(cfg.routing)(4, num_experts=cfg.model.num_experts)
        assert router.priority.func is (bpr if name == "system_task_moe" else first_come), name
        if name == "system_vmoe":
            assert router.eval_priority.func is bpr
    assert composed("experiment=system_glam").model.num_experts == 64
    st_moe = composed("experiment=system_st_moe")
    assert (st_moe.aux_loss.z.absolute_weight, st_moe.routing.eval_capacity_factor) == (1e-3, 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_system_trains_from_the_command_line(name: str, tmp_path: Path) -> None:
    """Three steps; then the evaluation says what the batch does to the features where slots are limited."""
    tiny = ["data.size=64", "data.batch_size=16", *SMALL, "trainer.max_steps=3", "trainer.val_check_interval=3"]
    sizes = [f"eval.synthetic_{task}.images.size=20" for task in ("heldout", "val")]
    limoe("train", f"experiment={name}", *tiny, *sizes, "hydra.run.dir=run", "report=false", cwd=tmp_path)
    done = limoe("eval", "run", "eval_capacity_factor=0.5", "hydra.run.dir=evaluated", cwd=tmp_path)
    assert "features depend on the batch (synthetic_heldout" in done.stdout
    done = limoe("eval", "run", "eval_capacity_factor=null", "hydra.run.dir=roomy", cwd=tmp_path)
    assert "features depend on the batch" not in done.stdout
