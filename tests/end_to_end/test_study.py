"""A study of real trainings in which one raises, one is killed, one diverges and one never ends."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

STUDY = {
    "question": "Does every trial end as a row?",
    "base": [
        "model.width=32",
        "model.num_heads=2",
        "model.mlp_dim=32",
        "data.size=64",
        "data.batch_size=16",
        "trainer.max_steps=3",
        "trainer.val_check_interval=3",
        "eval=none",
        "callbacks=[checkpoint,routing_health,non_finite_guard]",
    ],
    "variants": {
        "good": [],
        "wide": ["model.mlp_dim=64"],
        "deep": ["model.depth=5"],
        "dense": ["model.moe_layers=[]", "aux_loss=none"],
        "raises": ["tokenizer=file", "tokenizer.path=nowhere.json", "tokenizer.vocab_size=300"],
        "diverges": ["optimizer.lr=1e30", "trainer.max_steps=50"],
        "is_killed": ["trainer.max_steps=100000"],
        "hangs": ["trainer.max_steps=200000"],
    },
    "seeds": [0],
    "metrics": ["val/loss"],
    "trial_timeout": 100,
}
GOOD, BAD = ("good", "wide", "deep", "dense"), ("raises", "diverges", "is_killed", "hangs")


def study(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "limoe", "study", "mine"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("LIMOE_")} | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, env=env)


def kill_when_running(folder: Path, stop: threading.Event) -> None:
    while not stop.wait(0.5):
        for path in folder.glob("logs/studies/mine/is_killed/*/trial.json"):
            content = json.loads(path.read_text())
            if content["status"] == "running" and list(path.parent.glob(f"{content['run']}/csv/metrics.csv")):
                os.kill(content["pid"], signal.SIGKILL)
                time.sleep(2)


def attempts(folder: Path) -> dict[str, int]:
    trials = folder / "logs" / "studies" / "mine"
    return {name: len([p for p in trials.glob(f"{name}/*/try_*") if p.suffix == ".log"]) for name in GOOD + BAD}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_eight_trials_are_eight_rows_and_only_the_bad_ones_run_again(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    stop = threading.Event()
    killer = threading.Thread(target=kill_when_running, args=(tmp_path, stop), daemon=True)
    killer.start()
    try:
        done = study(tmp_path)
        assert done.returncode == 1, done.stdout + done.stderr
        rows = list(csv.DictReader((tmp_path / "mine" / "results" / "runs.csv").read_text().splitlines()))
        found = {row["variant"]: row["status"] for row in rows}
        assert found == {
            **dict.fromkeys(GOOD, "done"),
            "raises": "failed",
            "diverges": "diverged",
            "is_killed": "killed",
            "hangs": "timeout",
        }
        assert all(float(row["val/loss"]) > 0 for row in rows if row["variant"] in GOOD)
        assert all(row["error"] for row in rows if row["variant"] in BAD)
        page = (tmp_path / "mine" / "results" / "report.html").read_text()
        assert "4 of 8 trials finished" in page and "nowhere.json" in page
        assert attempts(tmp_path) == dict.fromkeys(GOOD + BAD, 1)
        assert study(tmp_path).returncode == 1
        assert attempts(tmp_path) == {**dict.fromkeys(GOOD, 1), **dict.fromkeys(BAD, 2)}
    finally:
        stop.set()
        killer.join()
