"""`limoe demo`: its sentence, also after an interrupt, and its pages."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from limoe.cli.commands.demo import sentence
from limoe.config.places import config_dir, register_resolvers
from limoe.runs.folder import Curve
from limoe.studies.baselines import DENSE, SPARSE, comparison
from limoe.studies.plan import Plan, plan_study
from limoe.studies.results import Row
from limoe.studies.trial import State
from tests.helpers.commands import limoe

TOP1 = "val/emblems_names/zeroshot_top1"


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    register_resolvers()
    with initialize_config_dir(str(config_dir("train")), version_base="1.3"):
        words = ["experiment=demo", "paths.output_dir=out"]
        study = comparison(words, name="demo", seeds=[0], variants=[DENSE, SPARSE], metrics=[TOP1], tuned={})
        yield plan_study(study, root=tmp_path)


def rows(plan: Plan, dense: Curve, sparse: Curve, *, status: str = "done") -> list[Row]:
    found = zip(plan.trials, ("done", status), (dense, sparse), strict=True)
    return [Row(trial, State(state), curves={TOP1: curve} if curve else {}) for trial, state, curve in found]


def test_the_sentence_says_accuracies_at_equal_cost_and_chance(plan: Plan) -> None:
    said = sentence(plan, rows(plan, {199: 0.2, 399: 0.473}, {199: 0.3, 399: 0.702}))
    assert said == (
        "At equal FLOPs per pair in training (sparse 1.50 M, dense 1.47 M): "
        "sparse 70.2%, dense 47.3% of 1,024 names on new images; chance 0.10%."
    )


def test_a_run_that_did_not_reach_its_end_is_quoted_with_its_steps(plan: Plan) -> None:
    said = sentence(plan, rows(plan, {399: 0.473}, {49: 0.01, 149: 0.12}, status="interrupted"))
    assert "sparse 12.0% after 150 of 400 steps, dense 47.3% of" in said
    said = sentence(plan, rows(plan, {399: 0.473}, {}, status="interrupted"))
    assert "sparse without a result (interrupted), dense 47.3% of" in said


def test_it_trains_both_and_writes_every_page(tmp_path: Path) -> None:
    words = ["data.count=64", "data.batch_size=32", "trainer.max_steps=4", "trainer.val_check_interval=2"]
    done = limoe("demo", "overrides=[" + ",".join(f'"{word}"' for word in words) + "]", cwd=tmp_path).stdout
    assert "dense seed 0: step 4 / 4, zeroshot_top1" in done and "sparse seed 0: done" in done
    pages = [Path(path) for path in re.findall(r"^[a-z ]+: (/.*html)$", done, re.MULTILINE)]
    assert [page.name for page in pages] == ["report.html", "report.html", "report.html", "index.html"]
    assert all(page.is_file() for page in pages)
    page = pages[0].read_text()
    addresses = re.findall(r'<a href="([^"]+html)">', page)
    assert [(pages[0].parent / address).resolve() for address in addresses] == [path.resolve() for path in pages[1:]]
    assert done.splitlines()[-1].startswith("At equal FLOPs per pair") and "of 64 names" in done.splitlines()[-1]
    assert done.splitlines()[-1] in page
