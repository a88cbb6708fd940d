"""A search of real trainings in which one point diverges, killed and terminated in the middle, goes on where it was."""

import csv
import json
import os
import signal
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
    killed.send_signal(signal.SIGKILL)  # its training lives on, and is waited for
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
