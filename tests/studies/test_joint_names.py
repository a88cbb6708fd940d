"""Names of variants that were given none."""

import copy
from pathlib import Path
from typing import Any

import pytest

from limoe.studies.joint import Group, variant_names
from limoe.studies.results import Row
from limoe.studies.trial import State, Trial

BASE: dict[str, Any] = {
    "aux_loss": {"z": {"_target_": "limoe.Z", "weight": 1.0}, "load": {"_target_": "limoe.Load"}},
    "routing": {"_target_": "limoe.TopK", "capacity_factor": 1.05},
    "model": {"num_experts": 8, "router": {"_target_": "limoe.TopK", "capacity_factor": 1.05}, "moe_layers": [1, 3]},
}


def changed(**values: Any) -> dict[str, Any]:
    """BASE with dotted keys (`__` for `.`) set, or removed where the value is an Ellipsis."""
    config = copy.deepcopy(BASE)
    for dotted, value in values.items():
        *path, last = dotted.split("__")
        place: Any = config
        for key in path:
            place = place[key]
        place.pop(last) if value is ... else place.update({last: value})
    return config


CLASSIC, MANY = changed(aux_loss__load=...), changed(model__num_experts=32)


def group(config: dict[str, Any], words: tuple[str, ...] = (), *, given: str = "") -> Group:
    return Group(config, [Row(Trial(given, 0, words, "", Path("x")), State("done"), config=config)])


def test_overrides_that_not_all_have_in_common() -> None:
    shared = ("experiment=scenes", "trainer.max_steps=9")
    groups = [group(CLASSIC, (*shared, "aux_loss=classic")), group(MANY, (*shared, "model.num_experts=32"))]
    assert variant_names(groups) == ["aux_loss=classic", "model.num_experts=32"]


def test_who_says_nothing_is_called_by_its_own_values_of_what_the_others_change() -> None:
    assert variant_names([group(BASE), group(MANY, ("model.num_experts=32",))]) == [
        "model.num_experts=8",
        "model.num_experts=32",
    ]
    assert variant_names([group(CLASSIC, ("aux_loss=classic",)), group(BASE)]) == ["aux_loss=classic", "other aux_loss"]


def test_a_single_variant_is_called_by_its_overrides() -> None:
    assert variant_names([group(BASE, ("experiment=scenes",))]) == ["experiment=scenes"]
    assert variant_names([group(BASE)]) == ["baseline"]


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (CLASSIC, ["aux_loss.load._target_=limoe.Load", "other aux_loss.load._target_"]),
        (changed(model__extra=3), ["other model.extra", "model.extra=3"]),
        (
            changed(routing__capacity_factor=2.0, model__router__capacity_factor=2.0),
            ["routing.capacity_factor=1.05", "routing.capacity_factor=2.0"],
        ),
        (
            changed(model__moe_layers=[], model__num_experts=None),
            ["model.num_experts=8, model.moe_layers=[1, 3]", "model.num_experts=null, model.moe_layers=[]"],
        ),
        (
            changed(aux_loss__z__weight=0, routing__capacity_factor=2, model__num_experts=1),
            [
                "aux_loss.z.weight=1.0, routing.capacity_factor=1.05 and 1 more",
                "aux_loss.z.weight=0, routing.capacity_factor=2 and 1 more",
            ],
        ),
    ],
)
def test_without_overrides_the_first_keys_that_differ(config: dict[str, Any], names: list[str]) -> None:
    assert variant_names([group(BASE), group(config)]) == names


def test_names_are_all_different() -> None:
    """The same words, other configs: another version of the code, say."""
    words = ("aux_loss=classic",)
    other = changed(aux_loss__load=..., model__num_experts=4)
    assert variant_names([group(CLASSIC, words), group(other, words), group({}), group({})]) == [
        "model.num_experts=8",
        "model.num_experts=4",
        "config unknown",
        "config unknown (2)",
    ]


def test_names_of_a_study_stay_unless_two_variants_bear_one() -> None:
    groups = [group(BASE, given="sparse"), group(CLASSIC, ("aux_loss=classic",), given="classic"), group(MANY)]
    assert variant_names(groups)[:2] == ["sparse", "classic"]
    clash = [group(BASE, given="same"), group(MANY, given="same")]
    assert variant_names(clash) == ["model.num_experts=8", "model.num_experts=32"]
