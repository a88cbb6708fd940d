"""`limoe atlas` on a run folder: which files it writes, and what it refuses."""

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig

from limoe.cli.commands.atlas import run
from limoe.errors import ConfigError, DataError
from tests.helpers import fake_checkpoint
from tests.helpers.configs import composed

SMALL = ("pairs=12", "knock_out_images=6", "examples=2", "patches=4", "words=4", "accelerator=cpu")


def config(*overrides: str) -> DictConfig:
    return composed(*SMALL, *overrides, command="atlas")


def test_a_run_gets_its_page_and_another_look_another_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    fake_checkpoint.write_checkpoint(folder)
    run(config(f"ckpt={folder}"))
    out = capsys.readouterr().out
    first = folder / "atlas"
    assert f"atlas: {first / 'index.html'}" in out and "4 experts in 1 sparse layer" in out
    record = json.loads((first / "atlas.json").read_text())
    assert (record["pairs"], record["of"], record["about"]["step"]) == (12, 512, 7)
    assert [len(layer["experts"]) for layer in record["layers"]] == [4]
    assert record["knock_out"]["task"] == "synthetic_heldout" and len(record["knock_out"]["layers"]["1"]) == 4
    assert record["settings"]["pairs"] == 12 and len(record["settings"]["checkpoint_sha256"]) == 64
    assert 0 < (first / "index.html").stat().st_size < 3_000_000
    before = (first / "atlas.json").read_bytes()

    run(config(f"ckpt={folder / 'checkpoints' / 'last.ckpt'}", "source=synthetic_val", "knock_out=null"))
    (other,) = folder.glob("atlas_*")
    assert (first / "atlas.json").read_bytes() == before
    assert json.loads((other / "atlas.json").read_text())["knock_out"] is None
    run(config(f"ckpt={folder}"))
    again = json.loads((first / "atlas.json").read_text())
    assert again["layers"] == record["layers"] and again["knock_out"] == record["knock_out"]


def test_a_dense_run_is_refused(tmp_path: Path) -> None:
    fake_checkpoint.write_checkpoint(tmp_path / "run", *fake_checkpoint.DENSE)
    with pytest.raises(ConfigError, match="a dense model routes nothing"):
        run(config(f"ckpt={tmp_path / 'run'}"))
    assert not list((tmp_path / "run").glob("atlas*"))


def test_a_run_must_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"give a run folder or a .ckpt file"):
        run(config(f"ckpt={tmp_path / 'none'}"))
