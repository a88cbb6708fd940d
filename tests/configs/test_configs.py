"""Every YAML is a test case: it composes, its `Run:` line composes, and what it builds can be built."""

import re
import shlex
from pathlib import Path

import pytest

from limoe.accounting.anatomy import without_values
from limoe.build import build_module
from limoe.cli.commands.info import model_info
from limoe.config.checks import check
from limoe.config.model_settings import sparse_towers
from limoe.config.objects import instantiate, plain
from tests.helpers.configs import COMMANDS, OPTIONS, composed
from tests.helpers.paths import CONFIGS

EXPERIMENTS = sorted((CONFIGS / "experiment").glob("*.yaml"))
MODELS = [file.stem for file in sorted((CONFIGS / "model").glob("*.yaml"))]
COMPANIONS = {  # values an option needs
    "tokenizer=file": ["tokenizer.path=t.json", "tokenizer.vocab_size=300"],
    "data=table": ["data.train_path=t.csv", "data.val_path=v.csv"],
    "data=image_folder": ["data.train_root=t", "data.val_root=v"],
    "data=hugging_face": ["data.path=p"],
    **{name: ["init_from.path=run"] for name in ("init_from=checkpoint", "experiment=emoji_upcycled")},
    **{f"routing={name}": ["aux_loss=none"] for name in ("hash", "random", "round_robin")},
    **{f"model={name}": ["aux_loss=none"] for name in MODELS if not name.startswith(("limoe", "two_tower_moe"))},
    **{f"routing={name}": ["~aux_loss.load"] for name in ("expert_choice", "soft")},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_option_composes_and_resolves(option: str) -> None:
    cfg = composed(option, *COMPANIONS.get(option, []))
    assert plain(cfg)
    check(cfg)


@pytest.mark.parametrize(
    "option",
    [o for o in OPTIONS if o.split("=")[0] in ("routing", "aux_loss", "contrastive", "optimizer", "scheduler")],
)
def test_option_builds_a_module(option: str) -> None:
    cfg = composed(option, "model.width=32", "model.mlp_dim=64", "model.num_heads=2", "tokenizer.vocab_size=300")
    module = build_module(cfg)
    assert set(module.aux_losses.terms) == set(cfg.aux_loss)
    assert module.configure_optimizers()["optimizer"].param_groups


@pytest.mark.parametrize("model", MODELS)
def test_model_builds_and_can_be_accounted_for(model: str) -> None:
    """Without values: the largest has 5.55 billion parameters."""
    cfg = composed(f"model={model}", *COMPANIONS.get(f"model={model}", []))
    with without_values():
        built = instantiate(cfg.model)
    info = model_info(cfg)
    assert info["params"]["total"] == sum(p.numel() for p in built.parameters())
    assert (info["dense_baseline"] is None) == (not sparse_towers(plain(cfg)["model"]))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_header(path: Path) -> None:
    """Question, source, command, cost and expectation stand on top, and the command composes."""
    header = [line[2:] for line in path.read_text().splitlines() if line.startswith("# ")]
    names = [line.split(":")[0] for line in header if re.match(r"[A-Z]\w+:", line)]
    assert names == ["Question", "Paper", "Run", "Cost", "Expectation"]
    run = next(line for line in header if line.startswith("Run: ")).removeprefix("Run: ")
    program, command, *words = shlex.split(run)
    overrides = [re.sub(r"=([^\[,]+),.*", r"=\1", word) for word in words if word != "-m"]  # of a sweep the first job
    assert (program, command) == ("limoe", "train") and f"experiment={path.stem}" in overrides
    cfg = composed(*overrides)
    check(cfg)
    assert cfg.task != "train", "an experiment has its own folder below logs/"


@pytest.mark.parametrize("option", OPTIONS)
def test_option_opens_with_a_comment(option: str) -> None:
    group, name = option.split("=")
    first = (CONFIGS / group / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")


@pytest.mark.parametrize("command", COMMANDS)
def test_command_has_a_config(command: str) -> None:
    required = {
        "eval": ["ckpt=run"],
        "atlas": ["ckpt=run"],
        "report": ["runs=[run]"],
        "export": ["ckpt=run", "out=model"],
        "search": ["search=[x]"],
    }.get(command, [])
    assert plain(composed(*required, command=command))


@pytest.mark.parametrize(
    ("override", "active"),
    [
        ("aux_loss=limoe", {"importance", "load", "z", "global_text", "global_image", "local_text"}),
        ("aux_loss=[classic,local_text]", {"importance", "load", "local_text"}),
        ("~aux_loss.z", {"importance", "load", "global_text", "global_image", "local_text"}),
        ("aux_loss=none", set()),
    ],
)
def test_losses_are_chosen_by_name(override: str, active: set[str]) -> None:
    assert set(composed(override).aux_loss) == active


def test_weight_zero_keeps_the_loss() -> None:
    assert composed("aux_loss.local_text.weight=0").aux_loss.local_text.weight == 0


def test_dense_and_sparse_differ_by_the_sparse_layers_and_their_losses_alone() -> None:
    sparse, dense = (plain(composed(f"experiment=emoji_{kind}")) for kind in ("limoe", "dense"))
    assert sparse.pop("aux_loss") and not dense.pop("aux_loss")
    assert sparse["model"].pop("moe_layers") == [1, 3] and dense["model"].pop("moe_layers") == []
    assert sparse == dense
