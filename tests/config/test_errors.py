"""What goes wrong with a loss of one's own is one line that names its key, and a bug keeps its traceback."""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from limoe.config.errors import explain, yaml_problem
from limoe.config.objects import instantiate
from limoe.errors import ConfigError
from limoe.losses.auxiliary.base import AuxLoss
from limoe.losses.auxiliary.classic import ZLoss

OWN = """
import re
from limoe.losses.auxiliary.base import AuxLoss

class MixedLoad(AuxLoss):
    def __init__(self, *, hard_share=0.5, pattern="", **settings):
        super().__init__(**settings)
        if not 0 <= hard_share <= 1:
            raise ValueError(f"hard_share is {hard_share}; it must be between 0 and 1")
        re.compile(pattern)

    def __call__(self, routed):
        return routed.logits.mean()

class Strict:
    def __init__(self, *, power):
        pass

class Heir(Strict):
    def __init__(self, **settings):
        super().__init__(**settings)
"""


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "losses_of_mine.py").write_text(OWN)
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "__init__.py").touch()
    (tmp_path / "package_of_mine" / "needy.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("losses_of_mine", "package_of_mine"):
        sys.modules.pop(name, None)


def refused(target: str = "losses_of_mine.MixedLoad", **settings: Any) -> str:
    cfg = OmegaConf.create({"aux_loss": {"mixed": {"_target_": target, **settings}}})
    with pytest.raises(ConfigError) as caught:
        instantiate(cfg.aux_loss)
    return str(caught.value)


def test_an_unknown_or_missing_argument_that_a_parent_finds() -> None:
    assert refused("losses_of_mine.Heir", power=1, powr=1) == (
        "aux_loss.mixed: Strict.__init__() got an unexpected keyword argument 'powr'"
    )
    assert refused("losses_of_mine.Heir") == (
        "aux_loss.mixed: Strict.__init__() missing 1 required keyword-only argument: 'power'"
    )


def test_a_value_of_another_type() -> None:
    assert refused(hard_share="half") == (
        "aux_loss.mixed: '<=' not supported between instances of 'int' and 'str'; is a value of the wrong type?"
    )
    assert refused(hard_share=3) == "aux_loss.mixed: hard_share is 3; it must be between 0 and 1"


def test_a_type_error_below_the_constructor_is_no_ones_value() -> None:
    """`re.compile(5)` fails in a frame of the library."""
    node = OmegaConf.create({"_target_": "losses_of_mine.MixedLoad", "pattern": 5})
    with pytest.raises(InstantiationException) as caught:
        instantiate(node)
    assert explain(caught.value) is None


def test_settings_of_every_loss_are_named_by_the_key_of_the_config() -> None:
    assert refused(weight=-1) == "aux_loss.mixed.weight must be a number >= 0, got -1"
    assert refused(weight=True) == "aux_loss.mixed.weight must be a number >= 0, got True"
    assert refused(modality="audio") == "aux_loss.mixed.modality must be 'image' or 'text', got 'audio'"
    unchecked: Any = inspect.unwrap(AuxLoss.__init__)  # the tests' type checker would refuse the text before
    with pytest.raises(ValueError, match=r"^weight must be a number >= 0, got 'abc'$"):
        unchecked(ZLoss(), weight="abc")


def test_a_class_that_is_not_there() -> None:
    assert refused("losses_of_mine.MixdLoad") == (
        "aux_loss.mixed: losses_of_mine has no 'MixdLoad'; did you mean 'MixedLoad'?"
    )
    assert refused("losses_of_mine.MixedLoad.gone") == "aux_loss.mixed: losses_of_mine.MixedLoad has no 'gone'"
    assert refused("limoe.losses.auxiliary.classic.ZLos").endswith("has no attribute 'ZLos'); did you mean 'ZLoss'?")
    assert "No module named 'no_such_module'" in refused("no_such_module.MixedLoad")
    assert "No module named 'no_such_package'" in refused("package_of_mine.needy.Loss")  # needy itself is there


def test_a_yaml_problem_names_the_line() -> None:
    with pytest.raises(yaml.MarkedYAMLError) as caught:
        yaml.safe_load("a: 1\nb: [c=[1]]")
    assert yaml_problem(caught.value) == "line 2: expected ',' or ']', but got '['"
