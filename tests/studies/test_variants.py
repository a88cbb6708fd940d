"""Variants with tuned values and seeds of their own, from study.yaml to the page."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from limoe.cli.commands.study import chosen
from limoe.config.places import config_dir, register_resolvers
from limoe.errors import ConfigError, DataError
from limoe.studies.plan import Plan, plan_study
from limoe.studies.report import conclude, contents, render
from limoe.studies.results import RUNS, Row, write_csv
from limoe.studies.study import Study, Tuned, parse_study
from limoe.studies.tables import compare
from limoe.studies.trial import State, Trial

VARIANTS: dict[str, Any] = {
    "dense": {
        "overrides": ["aux_loss=none"],
        "tuned": ["optimizer.lr=1e-2"],
        "grid": "3e-3, 1e-2\n on seed 0",
        "seeds": [0, 1, 2],
    },
    "sparse": ["aux_loss=limoe"],
    "short": {"seeds": [7]},
}


def parsed(**changes: Any) -> Study:
    content = {"question": "?", "base": ["paths.output_dir=out"], "variants": VARIANTS, "seeds": [0, 1]}
    return parse_study({**content, "metrics": ["val/loss"], **changes}, name="s", place="study.yaml")


def command(**keys: Any) -> Any:
    return OmegaConf.create({"seeds": None, "only": None, **keys})


def row(variant: str, seed: int, loss: float) -> Row:
    return Row(Trial(variant, seed, (), "", Path("x")), State("done"), {"val/loss": loss})


def test_tuned_values_come_last_and_are_listed() -> None:
    study = parsed()
    assert study.variants["dense"] == ("aux_loss=none", "optimizer.lr=1e-2") and study.variants["short"] == ()
    assert study.tuned == {"dense": Tuned(("optimizer.lr=1e-2",), "3e-3, 1e-2 on seed 0")}
    assert [study.seeds_of(name) for name in study.variants] == [(0, 1, 2), (0, 1), (7,)]
    configs = dict.fromkeys(study.variants, OmegaConf.create({}))
    found = contents(study, Plan((), (), None, {}, configs), [], costs=[])
    for name in ("report.html", "report.md"):
        page = render(found, name)
        assert "Own tuned values" in page and "3e-3, 1e-2 on seed 0" in page
    assert "Seeds 0, 1; dense 0, 1, 2; short 7." in render(found, "report.html")
    assert "* short: `no override`, seeds 7\n" in render(found, "report.md")
    plain = contents(replace(study, tuned={}, own_seeds={}), Plan((), (), None, {}, configs), [], costs=[])
    assert "Own tuned values" not in render(plain, "report.md") and "Seeds 0, 1. " in render(plain, "report.html")


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"override": []}, "variants.a.override: unknown key; did you mean 'overrides'?"),
        ({"tuned": ["lr"]}, "variants.a.tuned must be a list of overrides key=value, got 'lr'"),
        ({"tuned": ["seed=3"]}, "variants.a.tuned: seed is set by the study itself"),
        ({"grid": "1e-2"}, "variants.a.tuned must list the overrides that were chosen from variants.a.grid"),
        ({"tuned": ["x=1"], "grid": [1]}, "variants.a: grid must be a text, got [1]"),
        ({"seeds": []}, "variants.a.seeds must be distinct whole numbers, got []"),
        ({"seeds": [0, 0]}, "variants.a.seeds must be distinct whole numbers, got [0, 0]"),
        ("x=1", "variants.a must be a list, got 'x=1'"),
    ],
)
def test_errors_name_the_variant(variant: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        parsed(variants={"a": variant})
    assert str(caught.value).startswith("study.yaml: ") and message in str(caught.value)


def test_other_overrides_at_the_papers_size_keep_the_seeds_but_not_the_tuned_values() -> None:
    large = {"base": ["model=limoe_b16"], "metrics": ["val/loss"]}
    same = parsed(paper_scale=large).paper_scale
    assert same is not None and same.variants == parsed().variants and same.own_seeds == parsed().own_seeds
    own = {"dense": ["aux_loss=[]"], "short": {"tuned": ["optimizer.lr=2"], "seeds": [5]}}
    other = parsed(paper_scale={**large, "variants": own}).paper_scale
    assert other is not None and other.variants["dense"] == ("aux_loss=[]",)
    assert other.own_seeds == {"dense": (0, 1, 2), "short": (5,)}
    assert other.tuned == {"short": Tuned(("optimizer.lr=2",))}


def test_seeds_of_the_command_restrict_those_of_a_variant(capsys: pytest.CaptureFixture[str]) -> None:
    """dense has 0, 1, 2 itself, short 7; sparse takes those of the command."""
    some = chosen(parsed(), command(seeds=[1, 2, 3]))
    assert {name: some.seeds_of(name) for name in some.variants} == {"dense": (1, 2), "sparse": (1, 2, 3)}
    assert capsys.readouterr().err == "left out, since seeds=[1, 2, 3] has none of their seeds: short\n"
    last = chosen(parsed(), command(seeds=[7]))
    assert (list(last.variants), last.baseline) == (["sparse", "short"], "sparse")
    assert chosen(parsed(), command(only=["short", "dense"])).baseline == "dense"
    with pytest.raises(ConfigError, match=r"^seeds must be such that a variant has one of them, got \[0\]$"):
        chosen(parsed(), command(seeds=[0], only=["short"]))


def test_the_plan_has_the_seeds_of_each_variant(tmp_path: Path) -> None:
    register_resolvers()
    with initialize_config_dir(str(config_dir("train")), version_base="1.3"):
        plan = plan_study(parsed(), root=tmp_path)
    found = [(trial.seed, trial.variant) for trial in plan.trials]
    assert found == [(0, "dense"), (0, "sparse"), (1, "dense"), (1, "sparse"), (2, "dense"), (7, "short")]
    assert plan.trials[0].overrides[1:] == ("aux_loss=none", "optimizer.lr=1e-2", "seed=0")


def test_differences_are_paired_over_the_seeds_in_common(tmp_path: Path) -> None:
    """sparse - dense: -1.0 and -0.6 of seeds 0 and 1, mean -0.8; short has no seed of dense."""
    rows = [row("dense", seed, loss) for seed, loss in enumerate((3.0, 2.8, 9.0))]
    rows += [row("sparse", 0, 2.0), row("sparse", 1, 2.2), row("short", 7, 1.0)]
    dense, sparse, short = compare(parsed(), rows)
    assert (dense.trials, sparse.trials, short.trials) == (3, 2, 1)
    assert sparse.cells[0].difference is not None
    assert (sparse.cells[0].difference.mean, sparse.cells[0].difference.n) == (pytest.approx(-0.8), 2)
    assert short.cells[0].verdict == "no seed in common"
    write_csv([*rows, row("sparse", 2, 0.0)], tmp_path / RUNS)  # a seed that it does not have any more
    plan = Plan((), (), None, {}, dict.fromkeys(VARIANTS, OmegaConf.create({})))
    conclude(parsed(), plan, None, out=tmp_path)
    assert "6 of 6 trials finished" in (tmp_path / "report.html").read_text()
