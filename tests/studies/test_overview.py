"""The image of an answer."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from limoe.reporting.plots import COLORS
from limoe.studies.overview import answer_plot
from limoe.studies.results import Row
from limoe.studies.study import Metric, Study
from limoe.studies.trial import State, Trial

TOP1 = "val/x/zeroshot_top1"
STUDY = Study("s", "?", (), {"sparse": (), "dense": ()}, (0, 1), (Metric(TOP1, "accuracy"),), baseline="dense")


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def row(variant: str, seed: int, **metrics: float) -> Row:
    return Row(Trial(variant, seed, (), "", Path("x")), State("done"), metrics)


def test_variants_from_the_baseline_on_and_slots_of_the_sparse_ones() -> None:
    rows = [row(name, seed, **{TOP1: 0.3 + seed / 9}) for name in STUDY.variants for seed in (0, 1)]
    dense = texts(answer_plot(STUDY, rows, chance={TOP1: 0.01}))
    assert dense.index("dense") < dense.index("sparse")
    assert "accuracy" in dense and "dotted: chance" in dense and "success rate" not in dense
    rows += [row("sparse", 2, **{TOP1: 0.3, "router/image/success_rate": 0.9, "router/text/success_rate": 0.8})]
    both = texts(answer_plot(STUDY, rows, chance={}))
    assert both.count("sparse") == 2 and both.count("dense") == 1
    assert {"success rate", "image", "text"} <= set(both) and "dotted: chance" not in both


def test_nothing_measured_is_an_empty_image() -> None:
    assert {"dense", "sparse"} <= set(texts(answer_plot(STUDY, [], chance={})))


def test_every_seed_is_a_dot_and_one_seed_has_no_interval() -> None:
    """A diamond and three dots for three seeds, and an interval; for one seed a diamond and a dot."""
    study = replace(STUDY, variants={"a": ()}, baseline="a")

    def marks(values: list[float]) -> int:
        svg = answer_plot(study, [row("a", seed, **{TOP1: value}) for seed, value in enumerate(values)], chance={})
        uses = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}use")
        return sum(COLORS[0] in (element.get("style") or "") for element in uses)

    assert marks([0.1, 0.2, 0.4]) == 4
    assert marks([0.1]) == 2


def test_a_drawn_interval_of_shares_ends_at_one() -> None:
    """0.8, 0.9, 1.0: 0.9 ± 0.248 ends at 1; a loss of these values does not. The bar is the path in colour."""
    widths = []
    for key in (TOP1, "val/loss"):
        study = replace(STUDY, variants={"a": ()}, baseline="a", metrics=(Metric(key, "m"),))
        svg = answer_plot(study, [row("a", seed, **{key: 0.8 + seed / 10}) for seed in range(3)], chance={})
        bars = [path for path in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path")]
        ends = next(bar.get("d", "") for bar in bars if f"stroke: {COLORS[0]}; stroke-width: 2" in bar.get("style", ""))
        numbers = [float(word) for word in ends.split() if word not in "ML"]
        svg_uses = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}use")
        dots = [float(use.get("x", 0)) for use in svg_uses if COLORS[0] in (use.get("style") or "")]
        widths.append((numbers[2] - max(dots)) / (max(dots) - min(dots)))
    # beyond the last dot, in units of the distance of the outer dots: 0, and (0.248 - 0.1) / 0.2 = 0.742
    assert widths == [pytest.approx(0.0, abs=1e-3), pytest.approx(0.742, abs=1e-3)]


def test_long_names_are_broken() -> None:
    name = "experiment=emoji_limoe, model.num_experts=32 and 3 more"
    found = texts(answer_plot(replace(STUDY, variants={name: ()}, baseline=name), [], chance={}))
    assert name not in found and "experiment=emoji_limoe," in found
