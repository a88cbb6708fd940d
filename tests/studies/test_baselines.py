"""The variants of `limoe compare`, as overrides."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from limoe.config.places import config_dir, register_resolvers
from limoe.errors import ConfigError, DataError
from limoe.studies.baselines import VARIANTS, comparison
from limoe.studies.plan import plan_study
from limoe.studies.study import Study, Tuned

SIZES = ("model.depth=3", "model.moe_layers=[1]")


@pytest.fixture(autouse=True)
def hydra_configs() -> Iterator[None]:
    register_resolvers()
    with initialize_config_dir(str(config_dir("train")), version_base="1.3"):
        yield


def compared(*words: str, variants: tuple[str, ...] = VARIANTS, tuned: Any = None) -> Study:
    overrides = ["experiment=scenes", "paths.output_dir=out", *words]
    return comparison(overrides, name="c", seeds=[0, 1], variants=variants, metrics=["val/loss"], tuned=tuned or {})


def test_baselines_have_the_sizes_of_the_sparse_run(tmp_path: Path) -> None:
    study = compared(*SIZES)
    assert (study.base, study.baseline, study.seeds) == (
        ("experiment=scenes", "paths.output_dir=out"),
        "sparse",
        (0, 1),
    )
    assert study.variants["sparse"] == SIZES
    assert study.variants["dense"] == (*SIZES, "model.moe_layers=[]", "aux_loss=none")
    two_tower = study.variants["two_tower"]
    assert two_tower[:2] == ("model=two_tower_tiny", "aux_loss=none")
    assert {"model.image.depth=3", "model.text.depth=3"} <= set(two_tower) and not set(SIZES) & set(two_tower)
    assert plan_study(replace(study, metrics=()), root=tmp_path).metrics == ()  # known once the trials have ended
    assert list(compared(variants=("dense", "sparse")).variants) == ["dense", "sparse"]


def test_a_variant_may_have_values_of_its_own() -> None:
    study = compared("optimizer.lr=3e-3", tuned={"dense": ["optimizer.lr=1e-2"]})
    assert study.variants["dense"] == ("model.moe_layers=[]", "aux_loss=none", "optimizer.lr=1e-2")
    assert study.variants["sparse"] == () and study.tuned == {"dense": Tuned(("optimizer.lr=1e-2",))}
    with pytest.raises(ConfigError, match="tuned: 'densse' must be one of sparse, dense, two_tower"):
        compared(tuned={"densse": []})
    with pytest.raises(DataError, match=r"^limoe compare: tuned\.dense: seed is set by the study itself"):
        compared(tuned={"dense": ["seed=1"]})


@pytest.mark.parametrize(
    ("words", "variants", "message"),
    [
        ((), ("sparse", "wide"), "variants: 'wide' must be one of sparse, dense, two_tower"),
        (("model.moe_layers=[]",), VARIANTS, "model: a comparison starts from a sparse one-tower"),
        (("routing.k=2",), VARIANTS, "routing.k=2: an MLP in place of K experts costs 1/K of them"),
    ],
)
def test_what_cannot_be_compared(words: tuple[str, ...], variants: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compared(*words, variants=variants)
    assert message in str(caught.value)
