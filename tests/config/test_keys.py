"""What a constructor says about its own arguments reaches the user with the key where the value is set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from limoe.config.keys import arguments_of, built
from limoe.config.objects import instantiate
from limoe.errors import ConfigError, DataError, require_argument
from tests.helpers.commands import limoe

OWN = """
class Mine:
    def __init__(self, *, power):
        if power < 0:
            raise ValueError(f"power is {power}; it must be above 0")
"""


class Router:
    """A child whose parent knows the width and the number of experts."""

    def __init__(self, width: int, *, num_experts: int, k: int, sizes: dict[str, int] | None = None) -> None:
        require_argument(width > 0, "width", "> 0", width)
        require_argument(num_experts >= 1, "num_experts", ">= 1", num_experts)
        require_argument(1 <= k <= num_experts, "k", f"between 1 and num_experts={num_experts}", k)
        for name, size in (sizes or {}).items():
            require_argument(size >= 0, f"sizes.{name}", ">= 0", size)
        if k == 3:
            raise ValueError("three is a crowd")
        if k == 4:
            raise RuntimeError("a bug")


class Tower:
    def __init__(self, *, size: int, depth: int, router: Callable[..., Any], width: int = 8, experts: int = 4) -> None:
        require_argument(depth >= 1, "depth", ">= 1", depth)
        self.parts = [router(width, num_experts=experts) for _ in range(depth)]
        require_argument(size % 2 == 0, "size", "even", size)


class Model:
    def __init__(self, *, size: int, image: Callable[..., Any], text: Callable[..., Any]) -> None:
        self.towers = [image(size=size), text(size=size)]


def rule(x: float, *, power: float) -> float:
    """What an object calls again and again."""
    return x**power


def config(*changes: str) -> DictConfig:
    """Two towers with one router: `text` repeats the width and the depth of `image`."""
    here = __name__
    router = {"_target_": f"{here}.Router", "_partial_": True, "k": 1, "sizes": "${limits}"}
    tower = {"_target_": f"{here}.Tower", "_partial_": True, "router": "${routing}", "width": 8}
    text = {"depth": "${model.image.depth}", "width": "${.depth}"}
    model = {"_target_": f"{here}.Model", "size": "${data.size}", "image": {**tower, "depth": 2}, "text": tower | text}
    plain = {"routing": router, "model": model, "limits": {"image": 1}, "data": {"size": 4}}
    return OmegaConf.merge(OmegaConf.create(plain), OmegaConf.from_dotlist(list(changes)))  # type: ignore[return-value]


def refused(*changes: str) -> str:
    with pytest.raises(ConfigError) as error:
        instantiate(config(*changes).model)
    return str(error.value)


def test_what_is_right_is_built() -> None:
    model = instantiate(config("model.text.depth=1").model)
    assert [len(tower.parts) for tower in model.towers] == [2, 1]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("model.image.depth=-2", "model.image.depth must be >= 1, got -2"),
        ("model.text.depth=0", "model.text.depth must be >= 1, got 0"),
        ("routing.k=9", "routing.k must be between 1 and num_experts=4, got 9"),  # two factories deep
        ("model.image.width=0", "model.image.width must be > 0, got 0"),  # said by the router, held by the tower
        ("data.size=3", "data.size must be even, got 3"),  # said by a tower, held by the model, set elsewhere
        ("limits.image=-1", "limits.image must be >= 0, got -1"),  # a part of a value
        ("+model.image.experts=0", "model: num_experts must be >= 1, got 0"),  # no node holds it under this name
        ("routing.k=3", "routing: three is a crowd"),  # a plain ValueError
        (
            "routing.k=two",
            "routing: '<=' not supported between instances of 'int' and 'str'; is a value of the wrong type?",
        ),
        ("routing.q=1", "routing: Router.__init__() got an unexpected keyword argument 'q'"),
    ],
)
def test_the_key_is_that_of_the_node_which_holds_the_argument(change: str, line: str) -> None:
    assert refused(change.removeprefix("+")) == line


def test_interpolations_are_followed_to_where_a_value_is_set() -> None:
    """The image tower is built first; so that the text tower speaks, only its own depth may be wrong."""
    cfg = config("depth=0", "model.text.depth=${depth}")
    with pytest.raises(ConfigError, match=r"^depth must be >= 1, got 0$"):
        instantiate(cfg.model)


def test_a_config_is_left_as_it_was() -> None:
    cfg = config()
    before = OmegaConf.to_container(cfg)
    instantiate(cfg.model)
    assert OmegaConf.to_container(cfg) == before


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(InstantiationException, match="a bug"):
        instantiate(config("routing.k=4", "model.image.experts=4").model)


def test_a_factory_that_is_asked_for_is_outermost() -> None:
    """Its callers cannot know an argument that it was called with."""
    make = instantiate(config().routing)
    assert make.func is built and isinstance(make(8, num_experts=1), Router)
    with pytest.raises(ConfigError, match=r"^routing: width must be > 0, got 0$"):
        make(0, num_experts=1)
    with pytest.raises(ConfigError, match=r"^routing: num_experts must be >= 1, got 0$"):
        make(8, num_experts=0)


def test_functions_below_a_node_stay_as_hydra_makes_them() -> None:
    node = {
        "_target_": "types.SimpleNamespace",
        "rule": {"_target_": f"{__name__}.rule", "_partial_": True, "power": 2},
    }
    built = instantiate(node)
    assert built.rule.func is rule and built.rule(3) == 9


def test_nodes_in_lists_and_changes() -> None:
    node = {"_target_": f"{__name__}.Router", "width": 1, "num_experts": 1, "k": 2}
    cfg = OmegaConf.create({"all": {"_target_": "types.SimpleNamespace", "parts": [1, node]}})
    with pytest.raises(ConfigError, match=r"^all\.parts\[1\]\.k must be between 1 and num_experts=1, got 2$"):
        instantiate(cfg.all)
    with pytest.raises(ConfigError, match=r"^all\.parts\[1\]\.k needs a value: add all\.parts\[1\]\.k=\.\.\.$"):
        cfg["all"].parts[1].k = "???"
        instantiate(cfg.all)


def test_raw_nodes_are_handed_on_as_they_are() -> None:
    inner = {"_target_": f"{__name__}.Router", "_partial_": True, "k": 1}
    built = instantiate({"_target_": "types.SimpleNamespace", "_recursive_": False, "inner": inner})
    assert built.inner == inner
    cfg = OmegaConf.create({"raw": {"_target_": f"{__name__}.Router", "_recursive_": False, "width": 0}})
    with pytest.raises(ConfigError, match=r"^raw\.width must be > 0, got 0$"):
        instantiate(cfg.raw, num_experts=1, k=1)


def test_what_an_object_says_later() -> None:
    cfg = config()
    with pytest.raises(ConfigError, match=r"^routing\.k must be > 0, got 0$"), arguments_of(cfg.routing):
        require_argument(False, "k", "> 0", 0)
    with pytest.raises(DataError, match=r"^a file is missing$"), arguments_of(cfg.routing):
        raise DataError("a file is missing")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["model=two_tower_moe_tiny", "model.image.depth=-2"], "model.image.depth must be a whole number > 0, got -2"),
        (["train_transform.flip=2"], "train_transform.flip must be in [0, 1], got 2"),
        (["data.max_bad_fraction=2"], "data.max_bad_fraction must be between 0 and 1, got 2"),
        (["eval.synthetic_heldout.combos=some"], "eval.synthetic_heldout.combos must be heldout or all, got 'some'"),
        (["eval.synthetic_val.images.size=0"], "eval.synthetic_val.images.size must be > 0 (scenes), got 0"),
        (["tokenizer.vocab_size=3"], "tokenizer.vocab_size must be >= 258 (256 bytes, padding, eos), got 3"),
        (["callbacks.zero_shot.every_n_val=0"], "callbacks.zero_shot.every_n_val must be >= 1 (validations), got 0"),
        (["optimizer.lr=-1"], "optimizer.lr must be > 0, got -1"),
        (["optimizer=adafactor", "optimizer.beta1=1"], "optimizer.beta1 must be in [0, 1), got 1"),
        (["aux_loss.local_text.weight=-1"], "aux_loss.local_text.weight must be a number >= 0, got -1"),
        (
            ["aux_loss.global_text.min_experts=9"],
            "aux_loss.global_text.min_experts must be at most model.num_experts=8, got 9",
        ),
        (["aux_total.over_layers=max"], "aux_total.over_layers must be 'mean' or 'sum', got 'max'"),
        (["contrastive.chunk_size=0"], "contrastive.chunk_size must be >= 1 or null, got 0"),
        (["micro_batch_size=0"], "micro_batch_size must be a whole number > 0, got 0"),
        (["compile={backend:none}"], "compile.backend must be one of "),
        (["init_from=timm_vit", "init_from.name=null"], "init_from.name must be given, or path, and not both, got "),
        (["+callbacks.mine={_target_:own.Mine,power:-1}"], "callbacks.mine: power is -1; it must be above 0"),
    ],
)
def test_the_command_says_it_in_one_line(tmp_path: Path, words: list[str], line: str) -> None:
    (tmp_path / "own.py").write_text(OWN)
    done = limoe("train", "data.size=64", "data.batch_size=8", *words, "hydra.run.dir=run", cwd=tmp_path, code=2)
    said = done.stderr.strip().splitlines()
    assert len(said) == 1 and said[0].startswith(f"limoe: error: {line}")
