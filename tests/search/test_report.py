"""What a search's files and page say, on points worked out by hand."""

import csv
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from limoe.search.report import conclude, importance, sentence
from limoe.search.space import POINT, Sampler, Search
from limoe.studies.study import Metric, Study

TOP1 = "val/x/zeroshot_top1"
SPACE: dict[str, BaseDistribution] = {
    "optimizer.lr": FloatDistribution(1e-4, 1e-2, log=True),
    "aux_loss": CategoricalDistribution(("limoe", "[classic,z]")),
}


def search_of(*, seeds: tuple[int, ...] = (0, 1, 2), higher: bool = True) -> Search:
    metric = Metric(TOP1, "accuracy", higher) if higher else Metric("val/loss", "loss", higher)
    study = Study("mine", "Is <b> best?", ("experiment=scenes",), {POINT: ()}, seeds, (metric,), POINT)
    return Search(study, SPACE, 4, Sampler("tpe", 0, 4), False)


def point(number: int, lr: float, loss: str, *values: float, status: str = "done", error: str = "") -> FrozenTrial:
    attributes: dict[str, Any] = {"point": number, "status": status, "error": error, "seconds": 12.0}
    for seed, value in enumerate(values):
        attributes |= {f"value_seed_{seed}": value, f"hash_seed_{seed}": f"hash{number}{seed}"}
    state = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED}.get(status, TrialState.FAIL)
    return optuna.trial.create_trial(
        state=state,
        value=None if state == TrialState.FAIL else sum(values) / len(values),
        params={"optimizer.lr": lr, "aux_loss": loss},
        distributions=SPACE,
        user_attrs=attributes,
    )


POINTS = [
    point(0, 0.001, "limoe", 0.30, 0.31, 0.32),
    point(1, 0.0020000001, "[classic,z]", 0.40, 0.41, 0.42),
    point(2, 0.01, "limoe", 0.25, status="diverged", error="seed 1: not | finite"),
    point(3, 0.003, "limoe", 0.41, 0.40, 0.41),
]


def test_sentence() -> None:
    # sd of 0.40, 0.41, 0.42 is 0.01: half = 4.303 * 0.01 / sqrt(3) = 0.0248
    valued = [POINTS[0], POINTS[1], POINTS[3]]
    for number, trial in zip((0, 1, 3), valued, strict=True):
        trial.number = number
    assert sentence(search_of(), valued, POINTS[1]) == (
        "accuracy 41.0 ± 2.5 % at optimizer.lr=0.002, aux_loss=[classic,z] (point 1, the highest of 3). "
        "1 of the other 2 points are within noise of it."  # that with 0.41, 0.40, 0.41
    )
    assert sentence(search_of(), [], None) == "No answer: no point has a value of accuracy."
    one = [point(0, 0.001, "limoe", 2.0), point(1, 0.002, "limoe", 1.5)]
    one[1].number = 1
    assert sentence(search_of(seeds=(0,), higher=False), one, one[1]) == (
        "loss 1.500 at optimizer.lr=0.002, aux_loss=limoe (point 1, the lowest of 2)."
    )


def test_all_files(tmp_path: Path) -> None:
    best = conclude(search_of(), POINTS, out=tmp_path)
    assert best is not None and best.number == 1
    assert {path.name for path in tmp_path.iterdir()} == {
        "best.yaml",
        "report.html",
        "report.md",
        "slices.svg",
        "trials.csv",
    }
    rows = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert [row["number"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["status"] for row in rows] == ["done", "done", "diverged", "done"]
    assert float(rows[1]["value"]) == pytest.approx(0.41) and float(rows[1]["seconds"]) == 12
    assert (rows[1]["aux_loss"], rows[1]["value_seed_2"], rows[1]["hash_seed_2"]) == ("[classic,z]", "0.42", "hash12")
    assert (rows[2]["value"], rows[2]["value_seed_0"], rows[2]["error"]) == ("", "0.25", "seed 1: not | finite")
    text = (tmp_path / "best.yaml").read_text()
    assert yaml.safe_load(text) == {
        "base": ["experiment=scenes"],
        "overrides": ["optimizer.lr=0.002", "aux_loss=[classic,z]"],
    }
    # the search used 0, 1 and 2
    line = "limoe train -m experiment=scenes optimizer.lr=0.002 'aux_loss=[classic,z]' seed=3,4,5"
    assert f"# {line}\n" in text and "# accuracy 41.0 ± 2.5 %" in text
    report = (tmp_path / "report.md").read_text()
    assert "| 1 | done | 41.0 ± 2.5 % | 0.002 | [classic,z] | 12 s |  |" in report and f"    {line}\n" in report
    assert "seed 1: not \\| finite" in report and "![Every point against each parameter](slices.svg)" in report
    assert "4 of 4 points ended, 3 with a value" in report and "biased upwards by selection" in report
    drawn = ElementTree.fromstring((tmp_path / "slices.svg").read_text())
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"optimizer.lr", "aux_loss", "accuracy"} <= set(texts)
    page = (tmp_path / "report.html").read_text()
    assert "Is &lt;b&gt; best?" in page and "<td>41.0 ± 2.5 %</td>" in page
    assert page.count('src="data:image/svg+xml;base64,') == 2  # slices and history
    assert page.count("src=") == 2 and "http" not in page.replace("http-equiv", "")


def test_equal_points_and_pruned_ones(tmp_path: Path) -> None:
    points = [point(n, 0.001, "limoe", value) for n, value in enumerate([2.0, 1.0, 1.0])]
    points.append(point(3, 0.002, "limoe", 0.5, status="pruned"))
    best = conclude(search_of(seeds=(0,), higher=False), points, out=tmp_path)
    assert best is not None and best.number == 1  # the first of equals
    rows = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert (rows[3]["status"], rows[3]["value"]) == ("pruned", "")


def test_importance_finds_the_parameter_that_matters(tmp_path: Path) -> None:
    points = [point(n, 1e-4 * 1.4**n, ("limoe", "[classic,z]")[n % 2], float(n)) for n in range(12)]
    search = search_of(seeds=(0,))
    conclude(search, points, out=tmp_path)
    (said,) = [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("Importance")]
    assert said.startswith("Importance by PED-ANOVA, a rough estimate from 12 points: optimizer.lr ")
    shares = [int(word.rstrip("%,.")) for word in said.split() if word.rstrip(",.").endswith("%")]
    assert sum(shares) == 100 and shares[0] > 50
    assert (tmp_path / "report.html").read_text().count("data:image/svg+xml") == 3
    few = optuna.create_study()
    few.add_trials(points[:3])
    assert importance(search, few) is None


def test_a_search_without_a_value_has_a_page(tmp_path: Path) -> None:
    conclude(search_of(), POINTS, out=tmp_path)
    assert conclude(search_of(), POINTS[2:3], out=tmp_path) is None
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.md", "trials.csv"}
    page = (tmp_path / "report.html").read_text()
    assert "No answer" in page and "biased" not in page and "<img" not in page
