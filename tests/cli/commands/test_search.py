"""`limoe search`, from the folder to the files; the training is a small program."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from limoe.cli.commands.search import chosen, run
from limoe.config.places import register_resolvers
from limoe.errors import ConfigError, DataError
from limoe.search.space import read_search
from limoe.studies import trial
from tests.helpers.paths import CONFIGS

PROGRAM = """
import json, pathlib, sys
given = dict(word.split("=", 1) for word in sys.argv[1:])
run = pathlib.Path(given["hydra.run.dir"])
run.mkdir(parents=True)
metrics = {} if "nothing" in given["data.on_bad"] else {"val/loss": float(given["optimizer.lr"])}
(run / "run.json").write_text(json.dumps({"status": "done", "error": None, "metrics": metrics, "seconds": 2.0}))
"""
SEARCH: dict[str, Any] = {
    "question": "Which rate?",
    "base": ["paths.output_dir=out", "data.on_bad=replace"],
    "space": {"optimizer.lr": {"low": 1e-3, "high": 1e-2}},
    "metric": {"key": "val/loss", "higher": False},
    "trials": 2,
}


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "train.py").write_text(PROGRAM)
    monkeypatch.setattr(trial, "TRAIN", (sys.executable, str(tmp_path / "train.py")))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "search.yaml").write_text(yaml.safe_dump(SEARCH))
    return tmp_path / "mine"


def config(*words: Any, **keys: Any) -> DictConfig:
    cfg = compose(
        "search", overrides=["search=[]", f"paths.log_dir={keys.pop('logs', 'logs')}", "paths.output_dir=out"]
    )
    cfg.search = [str(word) for word in words]
    for key, value in keys.items():
        cfg[key] = value
    return cfg


def test_from_the_folder_to_the_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = tmp_path / "logs"
    run(config(folder, logs=logs, dry_run=True))
    said = capsys.readouterr().out
    assert "optimizer.lr: FloatDistribution(high=0.01, log=False, low=0.001" in said
    assert "2 points, 2 trainings" in said and "2 points are left" in said
    assert "time unknown until one has finished" in said and not (folder / "results").exists()
    run(config(folder, logs=logs))
    files = {path.name for path in (folder / "results").iterdir()}
    assert files == {"best.yaml", "report.html", "report.md", "slices.svg", "trials.csv"}
    best = yaml.safe_load((folder / "results" / "best.yaml").read_text())
    rates = [line.split(",")[4] for line in (folder / "results" / "trials.csv").read_text().splitlines()[1:]]
    assert len(rates) == 2 and best["overrides"] == [f"optimizer.lr={min(rates, key=float)}"]  # the loss is the rate
    assert "point 1: " in capsys.readouterr().out


def test_without_any_value_the_exit_code_is_1(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = config(folder, logs=tmp_path / "logs", overrides=["data.on_bad=nothing"], out=str(tmp_path / "out"), trials=1)
    with pytest.raises(SystemExit) as caught:
        run(cfg)
    assert caught.value.code == 1
    assert "no point has a value of val/loss" in capsys.readouterr().out.replace("\n", " ")
    assert not (tmp_path / "out" / "best.yaml").exists() and (tmp_path / "out" / "report.html").exists()


def test_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(config("new", tmp_path / "fresh"))
    assert read_search(tmp_path / "fresh").trials == 20
    assert capsys.readouterr().out.count("written: ") == 2


def test_chosen(folder: Path) -> None:
    search = chosen(read_search(folder), config(folder, trials=7, overrides=["data.root=x"]))
    assert search.trials == 7 and search.study.base[-1] == "data.root=x"


@pytest.mark.parametrize(
    ("words", "keys", "message"),
    [
        ([], {}, "search must be one folder with a search.yaml"),
        (["new"], {}, "search must be new FOLDER"),
        (["a", "b"], {}, "search must be one folder"),
        (["mine"], {"n_jobs": 0}, "n_jobs must be a whole number > 0, got 0"),
        (["mine"], {"trials": 0}, "trials must be a whole number > 0, got 0"),
        (["nowhere"], {}, "search.yaml: No such file or directory; make a search with: limoe search new FOLDER"),
    ],
)
def test_errors(folder: Path, words: list[str], keys: dict[str, Any], message: str) -> None:
    cfg = config(*(folder.parent / word if word != "new" else word for word in words), **keys)
    with pytest.raises((ConfigError, DataError)) as caught:
        run(cfg)
    assert message in str(caught.value)


@pytest.mark.parametrize("package", ["optuna", "pandas"])
def test_without_a_package_one_line_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.startswith(("limoe.search", "limoe.cli.commands.search"))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=rf"^a search needs the package {package}: pip install {package}$"):
        importlib.import_module("limoe.cli.commands.search")
