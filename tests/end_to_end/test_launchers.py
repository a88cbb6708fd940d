"""Sweeps through a launcher that Hydra finds as a plugin: the jobs run in processes of its own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TINY = [
    "experiment=scenes",
    "trainer.max_steps=1",
    "trainer.val_check_interval=1",
    "data.size=32",
    "data.batch_size=16",
    "model.width=32",
    "model.num_heads=2",
    "model.mlp_dim=64",
    "callbacks=none",
    "logger=none",
    "eval=none",
    "report=false",
]


def test_two_trainings_side_by_side_by_joblib(tmp_path: Path) -> None:
    """Both jobs leave the folder of a finished run."""
    if importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None:
        pytest.skip("the joblib launcher of Hydra is not installed (extra sweep)")
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    command = [sys.executable, "-m", "limoe", "train", "-m", *launcher, *TINY, "seed=1,2", "hydra.sweep.dir=sweep"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LIMOE_")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads((tmp_path / "sweep" / job / "run.json").read_text()) for job in ("0", "1")]
    assert [record["status"] for record in records] == ["done", "done"]
    assert [record["seed"] for record in records] == [1, 2]
    assert "hydra_joblib_launcher" in (tmp_path / "sweep" / "multirun.yaml").read_text()
