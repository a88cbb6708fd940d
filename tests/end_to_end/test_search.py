"""Searches that are killed and terminated in the middle go on where they were, and lose nothing."""

import contextlib
import csv
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

SEARCH = {
    "question": "Does a search survive?",
    "base": [
        "model.width=32",
        "model.num_heads=2",
        "model.mlp_dim=32",
        "data.size=64",
        "data.batch_size=16",
        "trainer.max_steps=80",
        "trainer.val_check_interval=4",
        "eval=none",
        "callbacks=[checkpoint,routing_health,non_finite_guard]",
    ],
    "space": {"optimizer.lr": {"choices": [1e-3, 3e-3, 1e30]}, "aux_total.weight": {"low": 0.0, "high": 0.1}},
    "metric": {"key": "val/loss", "name": "validation loss", "higher": False},
    "trials": 4,
    "sampler": {"seed": 3},  # draws the rate that diverges for point 1 alone
}


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "limoe", "search", "mine"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("LIMOE_")} | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def trainings(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in folder.glob("logs/searches/mine/point/*/trial.json")]


def wait_for_checkpoint(folder: Path, *, number: int) -> None:
    """Until the training of the `number`-th folder is under way."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if len(trainings(folder)) == number and any(state["status"] == "running" for state in trainings(folder)):
            (running,) = [state for state in trainings(folder) if state["status"] == "running"]
            if list(folder.glob(f"logs/searches/mine/point/*_{running['config_hash']}/try_1/checkpoints/last.ckpt")):
                return
        time.sleep(0.1)
    pytest.fail(f"training {number} did not begin")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_search_that_is_killed_goes_on(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "search.yaml").write_text(yaml.safe_dump(SEARCH, sort_keys=False))

    killed = start(tmp_path)
    wait_for_checkpoint(tmp_path, number=1)
    killed.send_signal(signal.SIGKILL)  # its training lives on, and is waited for, once its heartbeat is old
    killed.communicate(timeout=60)

    terminated = start(tmp_path)
    wait_for_checkpoint(tmp_path, number=3)
    terminated.send_signal(signal.SIGTERM)  # its training saves and ends
    said, _ = terminated.communicate(timeout=120)
    assert terminated.returncode == 143, said
    assert "point 0: " in said and "point 1: diverged" in said and "point 2" not in said

    last = start(tmp_path)
    said, _ = last.communicate(timeout=900)
    assert last.returncode == 0, said
    results = tmp_path / "mine" / "results"
    rows = list(csv.DictReader((results / "trials.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["done", "diverged", "done", "done"]
    assert [row["optimizer.lr"] for row in rows] == ["0.001", "1e+30", "0.003", "0.001"]
    values = [float(row["value"]) for row in rows if row["value"]]
    assert len(values) == 3 and min(values) > 0
    best = yaml.safe_load((results / "best.yaml").read_text())["overrides"]
    (first,) = [row for row in rows if row["value"] and float(row["value"]) == min(values)]
    assert best == [f"optimizer.lr={first['optimizer.lr']}", f"aux_total.weight={first['aux_total.weight']}"]
    assert "4 of 4 points ended, 3 with a value" in (results / "report.html").read_text()

    # one attempt each, but for the terminated one, which went on from its checkpoint
    folders = {row["number"]: tmp_path / "logs/searches/mine/point" / f"seed_0_{row['hash_seed_0']}" for row in rows}
    assert {number: len(list(folder.glob("try_*.log"))) for number, folder in folders.items()} == {
        "0": 1,
        "1": 1,
        "2": 2,
        "3": 1,
    }
    assert "ckpt_path=" in json.loads((folders["2"] / "try_2" / "run.json").read_text())["command"]

    again = start(tmp_path)  # nothing is left to do
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0 and "point 0" not in said.partition("validation loss")[0]
    assert len(trainings(tmp_path)) == 4


TRAINING = """
import json, pathlib, sys, time
given = dict(word.split("=", 1) for word in sys.argv[1:])
run = pathlib.Path(given["hydra.run.dir"])
run.mkdir(parents=True)
time.sleep(0.2)
(run / "run.json").write_text(json.dumps({"status": "done", "metrics": {"score": float(given["x"])}, "seconds": 0.2}))
"""
DRIVER = """
import hashlib, pathlib, sys
from optuna.distributions import FloatDistribution
from limoe.search import points
from limoe.search.space import POINT, Sampler, Search, as_word
from limoe.studies import trial
from limoe.studies.plan import Plan
from limoe.studies.study import Metric, Study

def plan_point(search, params, *, root):
    words = (f"x={as_word(params['x'])}", f"y={as_word(params['y'])}")
    digest = hashlib.sha256(repr(words).encode()).hexdigest()[:12]
    training = trial.Trial(POINT, 0, (*words, "seed=0"), digest, root / POINT / f"seed_0_{digest}")
    return Plan((training,), ("score",), 60.0, {}, {})

root, n_jobs, trials = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
trial.TRAIN = (sys.executable, str(root / "training.py"))
trial._LOOK = points._LOOK = 0.1
points.HEARTBEAT, points.GRACE, points.plan_point = 1, 3, plan_point
study = Study("mine", "?", (), {POINT: ()}, (0,), (Metric("score", "score"),), POINT)
space = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}
search = Search(study, space, trials, Sampler("tpe", 0, 5), False)
with points.opened(search, root=root, key="mine") as opened:
    print("ready", flush=True)
    points.Worker(search, opened, root=root, on_end=lambda *_: None).run(n_jobs=n_jobs)
    for number, one in enumerate(points.tries(opened)):
        print(one.user_attrs["point"], one.state.name, one.value, one.params["x"])
"""
VALUES = """
SELECT json(point.value_json), value.value FROM trials
JOIN trial_values AS value USING (trial_id)
JOIN trial_user_attributes AS point ON point.trial_id = trials.trial_id AND point.key = 'point'
WHERE trials.state = 'COMPLETE'
"""


def values(root: Path) -> dict[int, float]:
    """By point, as the file says it, also while it is written to."""
    with contextlib.closing(sqlite3.connect(root / "search.db", timeout=60)) as file:
        rows = file.execute(VALUES).fetchall()
    assert len({point for point, _ in rows}) == len(rows)  # one try of each has its value
    return {int(point): value for point, value in rows}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_search_that_is_killed_five_times_loses_no_point_and_no_value(tmp_path: Path, n_jobs: int) -> None:
    (tmp_path / "training.py").write_text(TRAINING)
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path), str(n_jobs), "30"]
    moments = random.Random(n_jobs)
    known: dict[int, float] = {}
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        enough = len(known) + moments.randint(0, 4)
        while len(values(tmp_path)) < enough:
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(moments.uniform(0, 1))
        process.kill()
        process.communicate()
        now = values(tmp_path)
        assert known.items() <= now.items() and len(now) < 30  # no value is lost
        known = now
        print(f"{len(known)} of 30 points have values")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    points = [line.split() for line in done.stdout.splitlines() if line[0].isdigit()]
    assert [int(point) for point, *_ in points] == list(range(30))  # all, and none twice
    assert {state for _, state, _, _ in points} == {"COMPLETE"}
    for number, _, value, x in points:
        assert float(value) == pytest.approx(float(x), abs=1e-6)  # a training is given six digits
        assert int(number) not in known or known[int(number)] == float(value)
    assert len({x for *_, x in points}) == len(values(tmp_path)) == 30
    trainings = [json.loads(path.read_text()) for path in tmp_path.glob("point/*/trial.json")]
    assert [state["status"] for state in trainings] == ["done"] * 30
    attempts = len(list(tmp_path.glob("point/*/try_*.log")))
    print(f"{attempts} attempts of 30 trainings")
    assert attempts <= 30 + 5 * n_jobs  # none is repeated but for a kill
