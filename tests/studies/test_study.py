"""study.yaml: what it may hold, and what its errors say."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from limoe.errors import ConfigError, DataError
from limoe.studies.skeleton import write_skeleton
from limoe.studies.study import Metric, Published, parse_study, read_study

WHOLE: dict[str, Any] = {
    "question": "Does it\n  help?",
    "base": ["experiment=scenes"],
    "variants": {"limoe": ["aux_loss=limoe"], "none": ["aux_loss=none", "~aux_loss.load"], "plain": []},
    "seeds": [0, 3],
    "metrics": ["val/loss", {"key": "val/x/zeroshot_top1", "name": "accuracy"}, {"key": "val/loss", "higher": False}],
}


def parsed(**changes: Any) -> Any:
    content = {key: value for key, value in {**WHOLE, **changes}.items() if value is not Ellipsis}
    return parse_study(content, name="my_study", place="study.yaml")


def test_all_keys() -> None:
    study = parsed(
        paper="Table 1",
        baseline="none",
        expectation="more",
        trial_timeout=90,
        paper_scale={"base": ["model=limoe_b16"], "metrics": ["val/loss"], "variants": {"plain": ["seed_x=1"]}},
        published=[{"name": "B/16", "value": 73.7, "certainty": "second-hand"}],
    )
    assert (study.name, study.question, study.baseline, study.seeds) == ("my_study", "Does it help?", "none", (0, 3))
    assert study.variants == {"limoe": ("aux_loss=limoe",), "none": ("aux_loss=none", "~aux_loss.load"), "plain": ()}
    assert study.metrics[1] == Metric("val/x/zeroshot_top1", "accuracy", True)
    assert study.metrics[2] == Metric("val/loss", "val/loss", False)
    assert study.trial_timeout == 90.0
    large = study.paper_scale
    assert (large.name, large.base, large.trial_timeout) == ("my_study_paper_scale", ("model=limoe_b16",), None)
    assert large.variants == {**study.variants, "plain": ("seed_x=1",)} and large.seeds == study.seeds
    assert large.metrics == (Metric("val/loss", "val/loss"),)
    assert study.published == (Published("B/16", "73.7", "second-hand"),)


def test_the_first_variant_is_the_baseline_by_default() -> None:
    assert parsed().baseline == "limoe"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": ...}, "question is missing"),
        ({"seeds": []}, "seeds is missing"),
        ({"seeds": [0, 0]}, "seeds must be distinct whole numbers"),
        ({"seeds": [True]}, "seeds must be distinct whole numbers"),
        ({"seeds": [-1]}, "seeds must be distinct whole numbers"),
        ({"varaints": {}}, "varaints: unknown key; did you mean 'variants'"),
        ({"variants": ["a"]}, "variants must map names"),
        ({"variants": {"a/b": []}}, "'a/b' must be a name"),
        ({"variants": {"a": ["seed=1"]}}, "variants.a: seed is set by the study itself"),
        ({"variants": {"a": ["nothing"]}}, "variants.a must be a list of overrides key=value, got 'nothing'"),
        ({"base": ["hydra.run.dir=x"]}, "base: hydra.run.dir is set by the study itself"),
        ({"baseline": "other"}, "baseline must be one of limoe, none, plain, got 'other'"),
        ({"metrics": [{"name": "x"}]}, "metrics must list keys"),
        ({"metrics": [3]}, "metrics must list keys"),
        (
            {
                "metrics": [
                    {"key": "val/synthetic_heldout/zeroshot_top1", "name": "zero-shot on held-out", "highr": True}
                ]
            },
            "metrics: unknown key 'highr'; did you mean 'higher'?",
        ),
        ({"trial_timeout": 0}, "trial_timeout must be a number of seconds > 0, got 0"),
        ({"published": [{"name": "x"}]}, "published must list"),
        ({"paper_scale": ["model=limoe_b16"]}, "paper_scale must hold base, metrics"),
        ({"paper_scale": {"base": [], "metrics": ["a"], "seeds": [1]}}, "paper_scale must hold base, metrics"),
        ({"paper_scale": {"base": [], "metrics": ["a"], "variants": {"x": []}}}, "paper_scale.variants: unknown"),
        ({"paper": ["x"]}, "paper must be a text"),
    ],
)
def test_errors_name_file_and_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"^study\.yaml: ") as caught:
        parsed(**changes)
    assert message in str(caught.value)


def test_read_study(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"study\.yaml: No such file.*limoe study new NAME"):
        read_study(tmp_path)
    (tmp_path / "study.yaml").write_text("a: [")
    with pytest.raises(DataError, match="not readable as YAML"):
        read_study(tmp_path)
    for text, line in (("a: [1\nb: 2", 2), ("\x00", None)):  # other faults get no advice about overrides
        (tmp_path / "study.yaml").write_text(text)
        with pytest.raises(DataError, match=r"as YAML: line 2: expected" if line else "special characters") as caught:
            read_study(tmp_path)
        assert "quotes" not in str(caught.value)
    (tmp_path / "study.yaml").write_text("variants:\n  both: [aux_loss=[limoe,mine]]")
    with pytest.raises(DataError, match=r'YAML: line 2: .*; an override with a list needs quotes: "aux_loss=\[a,b\]"$'):
        read_study(tmp_path)
    (tmp_path / "study.yaml").write_text("- a")
    with pytest.raises(DataError, match="must hold keys and values, got list"):
        read_study(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(WHOLE))
    assert read_study(tmp_path).name == tmp_path.name


def test_the_skeleton_is_a_study_and_is_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write_skeleton(folder, command="study")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "study.yaml"]
    assert list(read_study(folder).variants) == ["limoe", "classic"]
    with pytest.raises(ConfigError, match="exists already"):
        write_skeleton(folder, command="study")
