"""What a search's files and page say, on points worked out by hand."""

import csv
import io

import pytest
import yaml

from limoe.search.figures import history, slices
from limoe.search.points import Outcome, Point
from limoe.search.report import Findings, best_yaml, command, render, sentence, table
from limoe.search.space import Choices, Range
from limoe.search.spec import POINT, Sampler, Search
from limoe.studies.cost import Cost
from limoe.studies.study import Metric, Study

TOP1 = "val/x/zeroshot_top1"
COST = Cost(POINT, 2_000_000, 1_000_000, 1e9, 64, 300, 0.1)


def search_of(*, seeds: tuple[int, ...] = (0, 1, 2), higher: bool = True) -> Search:
    metric = Metric(TOP1, "accuracy", higher) if higher else Metric("val/loss", "loss", higher)
    study = Study("mine", "Is <b> best?", ("experiment=demo",), {POINT: ()}, seeds, (metric,), POINT)
    space = {"optimizer.lr": Range(1e-4, 1e-2, log=True), "aux_loss": Choices(("limoe", "[classic,z]"))}
    return Search(study, space, 5, Sampler("tpe", 0, 4), False)


def point(number: int, lr: str, loss: str, *values: float, status: str = "done", error: str = "") -> Point:
    outcome = Outcome(status, error, 12.0, dict(enumerate(values)))
    hashes = {seed: f"hash{number}{seed}" for seed in range(len(values))}
    value = sum(values) / len(values) if status == "done" else None
    return Point(number, {"optimizer.lr": lr, "aux_loss": loss}, hashes, outcome, value)


POINTS = [
    point(0, "0.001", "limoe", 0.30, 0.31, 0.32),
    point(1, "0.002", "[classic,z]", 0.40, 0.41, 0.42),
    point(2, "0.01", "limoe", 0.25, status="diverged", error="seed 1: not | finite"),
    point(3, "0.003", "limoe", 0.41, 0.40, 0.41),
    Point(4, {}, {}, Outcome("waiting")),
]


def found(search: Search, points: list[Point], best: Point | None) -> Findings:
    return Findings(search, points, best, {"optimizer.lr": 0.75, "aux_loss": 0.25}, COST)


def test_sentence() -> None:
    # sd of 0.40, 0.41, 0.42 is 0.01: half = 4.303 * 0.01 / sqrt(3) = 0.0248
    assert sentence(found(search_of(), POINTS, POINTS[1])) == (
        "accuracy 41.0 ± 2.5 % at optimizer.lr=0.002, aux_loss=[classic,z] (point 1, the highest of 3). "
        "1 of the other 2 points are within noise of it."  # that with 0.41, 0.40, 0.41
    )
    assert sentence(found(search_of(), POINTS[2:3], None)) == "No answer: none of 1 points has a value of accuracy."
    one = [point(0, "0.001", "limoe", 2.0), point(1, "0.002", "limoe", 1.5)]
    assert sentence(found(search_of(seeds=(0,), higher=False), one, one[1])) == (
        "loss 1.500 at optimizer.lr=0.002, aux_loss=limoe (point 1, the lowest of 2)."
    )


def test_table() -> None:
    rows = list(csv.DictReader(io.StringIO(table(search_of(), POINTS))))
    assert [row["status"] for row in rows] == ["done", "done", "diverged", "done", "waiting"]
    assert float(rows[1]["value"]) == pytest.approx(0.41) and rows[1]["seconds"] == "12.0"
    assert (rows[1]["aux_loss"], rows[1]["value_seed_2"], rows[1]["hash_seed_2"]) == ("[classic,z]", "0.42", "hash12")
    assert (rows[2]["value"], rows[2]["value_seed_0"], rows[2]["error"]) == ("", "0.25", "seed 1: not | finite")


def test_best_yaml_can_be_pasted() -> None:
    text = best_yaml(search_of(), POINTS[1], of=3)
    assert yaml.safe_load(text) == {
        "base": ["experiment=demo"],
        "overrides": ["optimizer.lr=0.002", "aux_loss=[classic,z]"],
    }
    assert "the best of 3: accuracy 41.0 ± 2.5 %" in text
    # the search used 0, 1 and 2
    line = "limoe train -m experiment=demo optimizer.lr=0.002 'aux_loss=[classic,z]' seed=3,4,5"
    assert command(search_of(), POINTS[1]) == line and f"# {line}\n" in text


def test_page() -> None:
    page = render(found(search_of(), POINTS, POINTS[1]), "report.html")
    assert "Is &lt;b&gt; best?" in page and "4 of 5 points ended, 3 with a value" in page
    assert "The best of 3 points is a maximum, so its value flatters" in page
    assert page.count("<img src=") == 4  # history, importance, two parameters
    assert "seed 1: not | finite" in page and '<tr class="best"><td class="n">1</td>' in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")


def test_markdown() -> None:
    text = render(found(search_of(), POINTS, POINTS[1]), "report.md")
    assert "| 1 | done | 41.0 ± 2.5 % | 0.002 | [classic,z] | 12 s |  |" in text
    assert "seed 1: not / finite" in text and "| optimizer.lr | 75 % |" in text
    assert "With one seed" not in text


def test_a_search_without_a_value_has_a_page() -> None:
    page = render(found(search_of(seeds=(0,)), POINTS[2:3], None), "report.html")
    assert "No answer" in page and "flatters" not in page and "<img src=" not in page


def test_one_seed_has_no_interval_and_says_so() -> None:
    one = [point(0, "0.001", "limoe", 0.5)]
    for name in ("report.html", "report.md"):
        assert "With one seed per point there is no interval either." in render(
            found(search_of(seeds=(0,)), one, one[0]), name
        )


def test_what_the_pictures_show(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, dict] = {}

    def keep(dots: list, *, title: str, **settings: object) -> str:
        drawn[title] = {"dots": dots, **settings}
        return ""

    monkeypatch.setattr("limoe.search.figures.dots_plot", keep)
    search = search_of()
    history(search, POINTS)
    slices(search, POINTS)
    assert dict(drawn["History"]["stairs"]) == pytest.approx({0: 0.31, 1: 0.41, 2: 0.41, 3: 0.41})
    assert [dot.y for dot in drawn["History"]["dots"]] == pytest.approx([0.31, 0.41, None, 0.40666667])  # one waits
    lr, loss = drawn["optimizer.lr"], drawn["aux_loss"]
    assert [dot.x for dot in lr["dots"]] == [0.001, 0.002, 0.01, 0.003] and lr["log"] and not lr["names"]
    assert [(dot.low, dot.high) for dot in lr["dots"]][1:3] == [(0.40, 0.42), (None, None)]
    assert [dot.best for dot in lr["dots"]] == [False, True, False, False]
    assert [dot.x for dot in loss["dots"]] == [0, 1, 0, 0] and loss["names"] == ["limoe", "[classic,z]"]
    assert loss["percent"] and not loss["log"]
