"""What is read from the files of a run. Broken ones: tests/reporting/test_report.py."""

import json
import math
from pathlib import Path

import pytest

from limoe.runs.folder import read_run
from tests.helpers.fake_run import write_csv, write_run


def test_health_of_a_run_without_counts_weighs_both_modalities_equally(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    rows = read_run(run).health
    assert [(row.assignments, row.effective_experts) for row in rows[:2]] == [(400, 1.82), (100, 1.82)]
    path = run / "routing" / "health.jsonl"
    old = [json.loads(line) for line in path.read_text().splitlines()]
    for row in old:
        del row["assignments"], row["effective_experts"]
    path.write_text("\n".join(json.dumps(row) for row in old))
    rows = read_run(run).health
    assert {row.assignments for row in rows} == {1}
    assert rows[0].effective_experts == pytest.approx(math.exp(0.6))


def test_the_first_alarm_of_each_layer_and_modality_is_kept(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    lines: list[dict[str, object]] = [{"layer": 1, "modality": "text", "message": m} for m in ("first", "second")]
    lines += [{"layer": 3, "modality": "text", "message": "third"}, {"layer": None, "message": "a leak"}]
    text = "\n".join(json.dumps(line) for line in lines) + '\n[]\n{"layer": 1'
    (run / "routing" / "alarms.jsonl").write_text(text)
    found = read_run(run)
    assert found.alarms == {(1, "text"): "first", (3, "text"): "third", (None, None): "a leak"}
    assert "routing/alarms.jsonl: 2 of 6 lines can't be read and are left out" in found.problems
    assert read_run(write_run(tmp_path / "quiet")).alarms == {}


def test_of_repeated_steps_the_last_counts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_csv(run / "csv" / "metrics.csv", [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}, {"step": 1, "a": 3.0}])
    assert read_run(run).curves == {"a": {1: 3.0, 2: 2.0}}
