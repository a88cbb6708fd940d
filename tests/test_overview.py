"""The picture of an answer."""

from pathlib import Path
from xml.etree import ElementTree

from limoe.reporting.overview import Mark, Panel, overview_plot
from limoe.reporting.run_folder import RunFolder
from limoe.studies.overview import answer_plot
from limoe.studies.results import Row
from limoe.studies.study import Metric, Study
from limoe.studies.trial import State, Trial

TOP1 = "val/x/zeroshot_top1"
STUDY = Study("s", "?", (), {"sparse": (), "dense": ()}, (0, 1), (Metric(TOP1, "accuracy"),), baseline="dense")


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def row(variant: str, seed: int, **metrics: float) -> Row:
    run = RunFolder(Path("x"), record={"metrics": metrics})
    return Row(Trial(variant, seed, (), "", Path("x")), State("done"), (run,))


def test_variants_from_the_baseline_on_and_seats_of_the_sparse_ones() -> None:
    rows = [row(name, seed, **{TOP1: 0.3 + seed / 9}) for name in STUDY.variants for seed in (0, 1)]
    dense = texts(answer_plot(STUDY, rows, chance={TOP1: 0.01}))
    assert dense.index("dense") < dense.index("sparse")
    assert "accuracy" in dense and "dotted: chance" in dense and "success rate at the end" not in dense
    rows += [row("sparse", 2, **{TOP1: 0.3, "router/image/success_rate": 0.9, "router/text/success_rate": 0.8})]
    both = texts(answer_plot(STUDY, rows, chance={}))
    assert both.count("sparse") == 2 and both.count("dense") == 1
    assert {"success rate at the end", "image", "text"} <= set(both) and "dotted: chance" not in both


def test_nothing_measured_is_an_empty_picture() -> None:
    assert {"dense", "sparse"} <= set(texts(answer_plot(STUDY, [], chance={})))


def test_every_seed_is_a_dot_and_one_seed_has_no_interval() -> None:
    """A diamond and three dots for three seeds; without a spread to show only a diamond and a dot."""

    def marks(values: list[float]) -> int:
        svg = overview_plot([Panel("p", ["a"], [Mark(0, values, "#0072b2")])])
        uses = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}use")
        return sum("0072b2" in (element.get("style") or "") or element.get("class") in _blue(svg) for element in uses)

    assert marks([0.1, 0.2, 0.4]) == 4
    assert marks([0.1]) == 2


def _blue(svg: str) -> set[str]:
    css = next(ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}style")).text or ""
    return {part.partition("{")[0].removeprefix(".") for part in css.split("}.") if "0072b2" in part}


def test_long_names_are_broken() -> None:
    name = "experiment=emoji_limoe, model.num_experts=32 and 3 more"
    found = texts(overview_plot([Panel("p", [name], [])]))
    assert name not in found and "experiment=emoji_limoe," in found
