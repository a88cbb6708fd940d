"""Trees of `_target_` become the objects that Hydra makes of them, and nothing outside a model is reached."""

from functools import partial
from pathlib import Path

import pytest
import torch

from limoe.build import build_model
from limoe.checkpoints.rebuild import rebuild
from limoe.config.objects import plain
from limoe.data.images.transforms import EvalTransform
from limoe.errors import DataError
from limoe.routing.priority import bpr
from tests.helpers.fake_checkpoint import config, write_checkpoint

EVAL = "limoe.data.images.transforms.EvalTransform"


def test_values_lists_and_dicts_come_through() -> None:
    tree = {
        "a": [1, None, {"b": "x"}],
        "c": {"_target_": EVAL, "image_size": 8},
        "d": [{"_target_": EVAL, "image_size": 4}],
    }
    built = rebuild(tree, key="config.json")
    assert built["a"] == [1, None, {"b": "x"}]
    assert isinstance(built["c"], EvalTransform) and built["c"].image_size == 8
    assert built["d"][0].image_size == 4


def test_partial_binds_and_does_not_call() -> None:
    node = {"_target_": "limoe.models.limoe.LIMoE", "_partial_": True, "width": 8}
    built = rebuild(
        {"router": node, "priority": {"_target_": "limoe.routing.priority.bpr", "_partial_": True}}, key="m"
    )
    assert isinstance(built["router"], partial) and built["router"].keywords == {"width": 8}
    assert built["priority"].func is bpr
    assert isinstance(rebuild({"_target_": EVAL, "_partial_": False, "image_size": 2}, key="m"), EvalTransform)


@pytest.mark.parametrize("routing", ["top_k", "per_modality", "modality_experts", "soft", "hash"])
def test_equal_to_hydra(routing: str) -> None:
    """The same network, parameter by parameter and seed by seed."""
    cfg = config(f"routing={routing}", "aux_loss=none", "model.num_experts=8")
    torch.manual_seed(3)
    by_hydra = build_model(cfg)
    torch.manual_seed(3)
    ours = rebuild(plain(cfg)["model"], key="model")
    assert str(ours) == str(by_hydra)
    for (name, a), b in zip(by_hydra.state_dict().items(), ours.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert vars(by_hydra.tower.blocks[1].mlp.router).keys() == vars(ours.tower.blocks[1].mlp.router).keys()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.open",
        "pathlib.Path.write_text",
        "torch.load",
        "torch.hub.load",
        "torch.nn.Linear",
        "numpy.load",
        "webdataset.gopen",
        "subprocess.Popen",
        "hydra.utils.instantiate",
        "limoe.cli.main.main",
        "limoe.runs.record.subprocess",
        "limoe.data.shards.tar_shards.TarShards",
        "limoe.models",
        "Limoe.models.limoe.LIMoE",
        " limoe.models.limoe.LIMoE",
        "",
        7,
        ["limoe.models.limoe.LIMoE"],
        None,
    ],
    ids=str,
)
@pytest.mark.parametrize("bound", [True, False])
def test_targets_outside_a_model_are_refused(target: object, bound: bool) -> None:
    with pytest.raises(DataError, match=r"config.json: model.router._target_: .* is not allowed"):
        rebuild({"router": {"_target_": target, "_partial_": bound}}, key="config.json: model")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("limoe.models.limoe.Nothing", "cannot find"),
        ("limoe.models.nowhere.LIMoE", "cannot find"),
        ("limoe.models.limoe.torch.load", "cannot find"),
        ("limoe.models..limoe", "cannot find"),
        ("limoe.models.limoe.torch", "is no class or function of limoe.models.limoe"),  # what a module imports
        ("limoe.models.limoe.TEXT", "is no class or function of limoe.models.limoe"),
        ("limoe.models.limoe.Tower", "is no class or function of limoe.models.limoe"),
        ("limoe.routing.priority.importlib", "is no class or function of limoe.routing.priority"),
    ],
)
def test_only_what_a_file_defines_itself(target: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rebuild({"_target_": target, "_partial_": True}, key="model")


def test_functions_are_never_called() -> None:
    """`get_priority` would import whatever module its argument names."""
    with pytest.raises(DataError, match="is a function"):
        rebuild({"_target_": "limoe.routing.priority.get_priority", "name": "antigravity.x"}, key="model")


@pytest.mark.parametrize("name", ["_args_", "_recursive_", "_convert_"])
def test_other_settings_of_hydra_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=f"model.{name} is a setting of Hydra"):
        rebuild({"_target_": EVAL, "image_size": 8, name: []}, key="model")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "missing a required argument: 'image_size'"),
        ({"image_size": 8, "size": 1}, "unexpected keyword argument 'size'"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict, message: str) -> None:
    with pytest.raises(DataError, match=f"preprocess: EvalTransform: .*{message}"):
        rebuild({"_target_": EVAL, **arguments}, key="preprocess")


def test_a_rule_of_a_constructor_keeps_its_words() -> None:
    with pytest.raises(DataError, match=r"^preprocess: image_size must be > 0"):
        rebuild({"_target_": EVAL, "image_size": 0}, key="preprocess")


def test_write_checkpoint_is_what_a_run_leaves(tmp_path: Path) -> None:
    """The fake used by these tests has the keys of a real checkpoint."""
    write_checkpoint(tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert {"state_dict", "hyper_parameters", "global_step"} <= state.keys()
    assert all(name.startswith("model.") for name in state["state_dict"])
