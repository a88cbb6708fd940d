"""Figures and overview that a study.yaml defines."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from omegaconf import OmegaConf

from limoe.errors import DataError
from limoe.reporting.plots import COLORS
from limoe.reporting.seeds import band
from limoe.runs.folder import Curve
from limoe.studies.cost import Cost
from limoe.studies.panels import _amounts, check_panels, panel_svg
from limoe.studies.plan import Plan
from limoe.studies.report import conclude, contents, render
from limoe.studies.results import Row, write_csv
from limoe.studies.study import Panel, Study, parse_study
from limoe.studies.trial import State, Trial

SVG = "{http://www.w3.org/2000/svg}"
TOP1 = "val/x/zeroshot_top1"
FIGURE: dict[str, Any] = {
    "name": "over_compute",
    "title": "Accuracy over compute",
    "x": "flops",
    "log": True,
    "lines": {"sparse, width 32": ["s1", "s2"], "dense": ["d1", "d2"]},
}


def parsed(*figures: Any, **changes: Any) -> Study:
    content: dict[str, Any] = {
        "question": "?",
        "base": ["x=1"],
        "variants": {name: [] for name in ("s1", "s2", "d1", "d2")},
    }
    content |= {
        "seeds": [0, 1, 2],
        "metrics": [{"key": TOP1, "name": "accuracy"}, "val/loss"],
        "figures": list(figures),
    }
    return parse_study(content | changes, name="s", place="study.yaml")


STUDY = parsed(FIGURE)
PANEL = STUDY.figures[0]
SIZES = {"s1": 1, "s2": 8, "d1": 2, "d2": 4}
CONFIGS = {name: OmegaConf.create({"model": {"e": size, "kind": "a"}, "zero": 0}) for name, size in SIZES.items()}
COSTS = [Cost(name, 3_000_000 * size, 1, 1e9 * size, 100, 20, None) for name, size in SIZES.items()]
PLAN = Plan((), (), None, {}, CONFIGS)


def row(variant: str, seed: int, value: float, **curves: Curve) -> Row:
    return Row(Trial(variant, seed, (), "", Path("x")), State("done"), {TOP1: value}, {TOP1: 0.01}, curves=curves)


ROWS = [row(name, seed, 0.1 * size + 0.01 * seed) for name, size in SIZES.items() for seed in range(3)]


def drawn(panel: Panel = PANEL, rows: list[Row] = ROWS, *, chance: float | None = 0.01) -> str:
    known = {} if chance is None else {TOP1: chance}
    return panel_svg(panel, STUDY, rows, COSTS, configs=CONFIGS, chance=known)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_what_a_figure_may_hold() -> None:
    assert PANEL.metric == TOP1  # the first one by default
    assert PANEL.lines == {"sparse, width 32": ("s1", "s2"), "dense": ("d1", "d2")}
    assert parsed({**FIGURE, "metric": "val/loss"}).figures[0].metric == "val/loss"
    large = parsed(FIGURE, paper_scale={"base": ["x=2"], "metrics": ["val/loss"]}).paper_scale
    assert large is not None and large.figures == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": ...}, "figures must list {name, title, x, lines}, got {'name': 'over_compute'"),
        ({"xlabel": "a"}, "figures: unknown key 'xlabel'; did you mean 'x_label'?"),
        ({"name": "answer"}, "figures: the name of a file, of letters, digits and _, not answer, got 'answer'"),
        ({"name": "../a"}, "got '../a'"),
        ({"x": 3}, "figures.over_compute: title, x and x_label must be texts"),
        ({"log": "yes"}, "figures.over_compute: log must be true or false, got 'yes'"),
        ({"metric": "val/los"}, f"figures.over_compute: metric must be one of {TOP1}, val/loss, got 'val/los'"),
        ({"lines": []}, "figures.over_compute: lines must map 1 to 10 names to lists of variants, got []"),
        ({"lines": {str(n): ["s1"] for n in range(11)}}, "lines must map 1 to 10 names"),
        ({"lines": {"a": ["s1", "s3"]}}, "figures.over_compute: lines.a: 's3' is no variant"),
        ({"lines": {"a": "s1"}}, "figures.over_compute: lines.a must be a list, got 's1'"),
    ],
)
def test_errors_name_file_and_figure(changes: dict[str, Any], message: str) -> None:
    entry = {key: value for key, value in {**FIGURE, **changes}.items() if value is not ...}
    with pytest.raises(DataError) as caught:
        parsed(entry)
    assert str(caught.value).startswith("study.yaml: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_are_distinct_and_an_overview_holds_variants() -> None:
    with pytest.raises(DataError, match=r"study.yaml: figures: the names must be distinct, got \['over_compute', 'ov"):
        parsed(FIGURE, FIGURE)
    with pytest.raises(DataError, match=r"study.yaml: overview: 's9' is no variant$"):
        parsed(overview=["s9"])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            "model.f",
            "figures.over_compute.x=model.f must be flops, steps, parameters, pairs or a config key that is a ",
        ),
        ("model.kind", "number > 0 in each of its variants, got 'a' in s1"),
        ("zero", "got 0 in s1"),
    ],
)
def test_a_config_key_is_a_number_in_all_variants(x: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        check_panels(parsed({**FIGURE, "x": x}), CONFIGS)
    assert str(caught.value).startswith("study.yaml: ") and message in str(caught.value)
    check_panels(STUDY, CONFIGS)
    check_panels(parsed({**FIGURE, "x": "zero", "log": False}), CONFIGS)
    check_panels(parsed({**FIGURE, "x": x}), {})  # variants that were not chosen


def test_amounts_and_their_units() -> None:
    """s2: 8 GFLOP x 100 pairs x 20 steps = 16 TFLOP, 24 million parameters; all have 2,000 pairs."""
    found = {x: _amounts(replace(PANEL, x=x), COSTS, CONFIGS) for x in ("flops", "parameters", "pairs", "steps")}
    assert found["flops"] == ("TFLOP of training", {"s1": 2.0, "s2": 16.0, "d1": 4.0, "d2": 8.0})
    assert found["parameters"] == ("million parameters", {"s1": 3.0, "s2": 24.0, "d1": 6.0, "d2": 12.0})
    assert found["pairs"][0] == "thousand pairs seen" and set(found["pairs"][1].values()) == {2.0}
    assert found["steps"] == ("training steps", dict.fromkeys(SIZES, 20.0))
    assert _amounts(replace(PANEL, x="model.e"), COSTS, CONFIGS) == ("model.e", SIZES)
    named = [_amounts(replace(PANEL, x=x, x_label="size"), COSTS, CONFIGS)[0] for x in ("flops", "model.e")]
    assert named == ["size (TFLOP of training)", "size"]


def test_what_a_figure_shows() -> None:
    """Two lines of two variants with three seeds: by colour 2 means and 6 dots each; the values of x as ticks."""
    svg = drawn()
    found = texts(svg)
    for text in ("Accuracy over compute", "TFLOP of training", "accuracy", "sparse, width 32", "dense", "chance"):
        assert text in found
    assert [text for text in found if text in ("2", "4", "8", "16")] == ["2", "4", "8", "16"]
    uses = [element.get("style") or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}use")]
    # a marker in the legend and the band are two more
    assert [sum(color in style for style in uses) for color in COLORS[:3]] == [2 + 6 + 2, 2 + 6 + 2, 0]
    assert "chance" not in texts(drawn(chance=None))
    assert drawn(rows=[]) == ""
    linear = texts(drawn(replace(PANEL, log=False, lines={"a": ("s1",)})))
    assert "Accuracy over compute" in linear and "sparse, width 32" not in linear


def test_ten_lines_have_ten_colours() -> None:
    svg = drawn(replace(PANEL, lines={str(n): ("s1",) for n in range(10)}))
    assert all(color in svg for color in COLORS)


def test_bands() -> None:
    assert band([0.2, 0.4], share=True) == (0.2, 0.4)  # the range of two
    assert band([0.3], share=True) == (0.3, 0.3)
    # sd of 0.1, 0.2, 0.3 is 0.1: half = 4.303 * 0.1 / sqrt(3) = 0.2484 around 0.2
    assert band([1.1, 1.2, 1.3], share=False) == pytest.approx((0.9516, 1.4484), abs=1e-4)
    assert band([0.1, 0.2, 0.3], share=True) == pytest.approx((0.0, 0.4484), abs=1e-4)
    assert band([0.7, 0.8, 0.9], share=True) == pytest.approx((0.5516, 1.0), abs=1e-4)


def test_figures_are_files_and_on_the_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limoe.studies.report.costs_of", lambda plan, rows, *, leave_out: COSTS)
    write_csv(ROWS, tmp_path / "runs.csv")
    study = parsed(FIGURE, {**FIGURE, "name": "of_loss", "metric": "val/loss"})
    conclude(study, PLAN, None, out=tmp_path)
    assert "sparse, width 32" in texts((tmp_path / "over_compute.svg").read_text())
    assert not (tmp_path / "of_loss.svg").exists()  # nobody has measured it
    text = (tmp_path / "report.md").read_text()
    assert "![Accuracy over compute: mean over seeds of each variant, and every seed](over_compute.svg)\n" in text
    page = (tmp_path / "report.html").read_text()
    assert page.count('alt="Accuracy over compute: mean over seeds') == 1


def test_an_overview_shows_some_variants_and_the_tables_all() -> None:
    rows = [replace(row, curves={TOP1: {9: 0.1, 19: 0.2}}) for row in ROWS]
    some = contents(parsed(overview=["d2", "s1"]), PLAN, rows, costs=COSTS)
    assert {"d2", "s1"} <= set(texts(some["image"])) and not {"d1", "s2"} & set(texts(some["image"]))
    curves = [unquote(figure.source) for figure in some["curves"]]
    assert curves and all(">d2<" in svg and ">d1<" not in svg for svg in curves)
    page = render(some, "report.html")
    assert "Of d2, s1. Mean over the finished trials" in page
    assert [line.variant for line in some["lines"]] == ["s1", "s2", "d1", "d2"]
    assert len(some["sheets"]["reach"].rows) == 4
    all_of_them = contents(parsed(), PLAN, rows, costs=COSTS)
    assert set(SIZES) <= set(texts(all_of_them["image"]))
    assert parsed(overview=["d2"]).shown == ["d2"]
    assert replace(parsed(overview=["d2"]), variants={"s1": ()}).shown == ["s1"]  # another choice of variants
