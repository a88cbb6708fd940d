"""Every key that a run logs stands in docs/metrics.md."""

import csv
import json
import re
from pathlib import Path

import pytest

from tests.helpers.commands import FEW_IMAGES, TINY, limoe_in_this_process
from tests.helpers.paths import DOCS

PAGE = (DOCS / "metrics.md").read_text()
CALLBACKS = "[default,aux_loss_schedule,collapse_alarm,gradient_share,leak_probe,ema]"
WORDS = ["debug=limit", f"callbacks={CALLBACKS}", "report=false", "logger=csv"]
ALARM = [f"callbacks.collapse_alarm.{setting}" for setting in ("action=boost", "patience=1", "min_success_rate=1.0")]
SHORT = ["trainer.max_steps=2", "trainer.val_check_interval=2", "callbacks.routing_health.every_n_steps=1"]
GAPS = {"<name>": "[a-z_]+", "<optimizer>": r"\w+", "<task>": "[a-z_]+"}


def documented(section: str) -> list[str]:
    """What stands in backticks in the first column of a section's tables."""
    rows = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert rows is not None
    cells = [line.split("|")[1] for line in rows[1].splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def is_documented(key: str) -> bool:
    router = re.fullmatch(r"router/L\d\d/(?:image|text)/(\w+)", key)
    if router is not None:
        return re.sub("_q(05|50|95)$", "_q05", router[1]) in documented("Routers")
    if task := re.fullmatch(r"val/\w+/(\w+)", key):
        return task[1] in documented("Evaluation")
    patterns = (re.escape(name) for name in documented("Training"))
    for pattern in patterns:
        for gap, words in GAPS.items():
            pattern = pattern.replace(re.escape(gap), words)
        if re.fullmatch(pattern, key):
            return True
    return re.sub("/(image|text)/", "/<modality>/", key) in re.findall(r"`(router/<modality>/\w+)`", PAGE)


def test_a_run_logs_nothing_that_is_not_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("LIMOE_CONFIG_DIR", "LIMOE_LOG_DIR", "LIMOE_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    words = ["train", "experiment=scenes", *WORDS, *ALARM, *SHORT, *TINY, *FEW_IMAGES, "hydra.run.dir=run"]
    assert limoe_in_this_process(*words, "callbacks.gradient_share.every_n_steps=1", monkeypatch=monkeypatch) == 0
    with (tmp_path / "run" / "csv" / "metrics.csv").open() as file:
        keys = next(csv.reader(file))
    assert {"train/grad_share/contrastive", "train/aux_factor/local_text", "val/synthetic_val/i2t_r1"} <= set(keys)
    assert {"leak/excess", "leak/unrelated_loss"} <= set(keys)
    assert any(key.startswith("train/aux_boost/") for key in keys)
    assert [key for key in keys if not is_documented(key)] == []
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [key for key in record if key not in documented("run.json")] == []
    health = json.loads((tmp_path / "run" / "routing" / "health.jsonl").read_text().splitlines()[0])
    assert [key for key in health.keys() - {"step", "layer", "modality"} if f"`{key}`" not in PAGE] == []


def test_the_look_up_can_fail() -> None:
    assert is_documented("router/L05/text/success_rate") and is_documented("train/aux/z")
    for key in ("router/L05/text/luck", "train/aux", "val/x/zeroshot_top7", "train/aux/z/more", "router/text/load_cv"):
        assert not is_documented(key)
