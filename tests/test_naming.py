"""Names of variants that nobody has named."""

from typing import Any

import pytest

from limoe.studies.naming import Unnamed, variant_names

BASE: dict[str, Any] = {
    "aux_loss": {"z": {"_target_": "limoe.Z", "weight": 1.0}, "load": {"_target_": "limoe.Load"}},
    "routing": {"_target_": "limoe.TopK", "capacity_factor": 1.05},
    "model": {"num_experts": 8, "router": {"_target_": "limoe.TopK", "capacity_factor": 1.05}, "moe_layers": [1, 3]},
}


def changed(**values: Any) -> dict[str, Any]:
    """BASE with dotted keys (`__` for `.`) set, or removed where the value is an Ellipsis."""
    config = {key: dict(value) for key, value in BASE.items()}
    config["model"]["router"] = dict(BASE["model"]["router"])
    for dotted, value in values.items():
        *path, last = dotted.split("__")
        place: Any = config
        for key in path:
            place = place[key]
        place.pop(last) if value is ... else place.update({last: value})
    return config


CLASSIC, MANY = changed(aux_loss__load=...), changed(model__num_experts=32)


def test_overrides_that_the_baseline_has_not() -> None:
    shared = ("experiment=demo", "trainer.max_steps=9")
    variants = [
        Unnamed(BASE, shared),
        Unnamed(CLASSIC, (*shared, "aux_loss=classic")),
        Unnamed(MANY, (*shared, "model.num_experts=32")),
    ]
    assert variant_names(variants) == ["baseline", "aux_loss=classic", "model.num_experts=32"]


def test_the_baseline_bears_its_own_values_where_they_are_known() -> None:
    assert variant_names([Unnamed(BASE), Unnamed(MANY, ("model.num_experts=32",))]) == [
        "model.num_experts=8",
        "model.num_experts=32",
    ]
    assert variant_names([Unnamed(BASE, ("aux_loss=limoe",)), Unnamed(CLASSIC, ("aux_loss=classic",))]) == [
        "aux_loss=limoe",
        "aux_loss=classic",
    ]
    assert variant_names([Unnamed(BASE, ("experiment=demo",))]) == ["experiment=demo"]
    assert variant_names([Unnamed(BASE)]) == ["baseline"]


def test_what_changes_nothing_is_no_part_of_a_name() -> None:
    variants = [Unnamed(BASE), Unnamed(MANY, ("model.num_experts=32", "aux_loss=limoe", "model.moe_layers=[1,3]"))]
    assert variant_names(variants)[1] == "model.num_experts=32"


def test_what_only_the_baseline_said_is_default_in_the_others() -> None:
    assert variant_names([Unnamed(CLASSIC, ("aux_loss=classic",)), Unnamed(BASE)]) == [
        "aux_loss=classic",
        "default aux_loss",
    ]


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (CLASSIC, "no aux_loss.load"),
        (changed(model__extra=3), "model.extra=3"),
        (changed(routing__capacity_factor=2.0, model__router__capacity_factor=2.0), "routing.capacity_factor=2.0"),
        (changed(routing={"_target_": "limoe.soft.Soft", "seats": 4}), "routing=Soft"),
        (changed(model__moe_layers=[], model__num_experts=None), "model.num_experts=null, model.moe_layers=[]"),
        (changed(aux_loss__z=..., aux_loss__load=..., routing=...), "no aux_loss.z, no aux_loss.load and 1 more"),
    ],
)
def test_without_overrides_the_keys_that_differ(config: dict[str, Any], name: str) -> None:
    assert variant_names([Unnamed(BASE), Unnamed(config)])[1] == name


def test_names_are_all_different() -> None:
    """The same words, other configs: another version of the code, say."""
    words = ("aux_loss=classic",)
    other = changed(aux_loss__load=..., model__num_experts=4)
    names = variant_names([Unnamed(BASE), Unnamed(CLASSIC, words), Unnamed(other, words), Unnamed({}), Unnamed({})])
    assert names == [
        "baseline",
        "aux_loss=classic",
        "no aux_loss.load, model.num_experts=4",
        "config unknown",
        "config unknown (2)",
    ]


def test_names_of_a_study_stay_unless_two_variants_bear_one() -> None:
    variants = [Unnamed(BASE, given="sparse"), Unnamed(CLASSIC, given="classic"), Unnamed(MANY)]
    assert variant_names(variants) == ["sparse", "classic", "model.num_experts=32"]
    clash = [Unnamed(BASE, given="same"), Unnamed(MANY, given="same")]
    assert variant_names(clash) == ["model.num_experts=8", "model.num_experts=32"]


def test_another_baseline() -> None:
    assert variant_names([Unnamed({}), Unnamed(BASE), Unnamed(MANY)], baseline=1) == [
        "config unknown",
        "model.num_experts=8",
        "model.num_experts=32",
    ]
