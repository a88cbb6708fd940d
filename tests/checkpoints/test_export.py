"""The files of an export, what is never overwritten, and the command."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import limoe
from limoe.build import build_model
from limoe.checkpoints import export as export_module
from limoe.checkpoints.export import export
from limoe.checkpoints.pretrained import load
from limoe.errors import ConfigError, DataError
from limoe.files import sha256
from tests.helpers.fake_checkpoint import config, state_of, write_checkpoint

FILES = {"model.safetensors", "config.json", "tokenizer.json", "README.md"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "run")
    return tmp_path / "run"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_folder_is_complete_and_plain(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "some" / "where"
    files = export(run, out=out)
    assert names(out) == FILES == {file.name for file in files}
    assert names(out.parent) == {"where"}, "nothing is left beside it"
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    saved = load_file(out / "model.safetensors")
    assert {f"model.{name}" for name in saved} == state.keys()
    assert all(torch.equal(value, state[f"model.{name}"]) for name, value in saved.items())
    described = json.loads((out / "config.json").read_text())
    assert described["format"] == "limoe" and described["limoe_version"] == limoe.__version__
    assert described["sha256"] == {name: sha256(out / name) for name in ("model.safetensors", "tokenizer.json")}
    assert described["source"]["step"] == 7 and described["source"]["weights"] == "raw"
    assert described["source"]["parameters"] == sum(value.numel() for value in state.values())
    assert described["logit_bias"] is None
    modes = {(out / name).stat().st_mode & 0o777 for name in FILES}
    assert len(modes) == 1, "all files are as readable as each other"


def test_the_average_is_chosen_by_name(tmp_path: Path) -> None:
    """`state_dict` holds the average, `current_model_state` what the optimizer moved."""
    raw = build_model(config())
    average = write_checkpoint(tmp_path / "run", current_model_state=state_of(raw))
    for weights, model, kind in (("saved", average, "ema"), ("ema", average, "ema"), ("raw", raw, "raw")):
        export(tmp_path / "run", out=tmp_path / weights, weights=weights)
        encoder = load(tmp_path / weights)
        expected = model.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in encoder.model.state_dict().items())
        assert encoder.config["source"]["weights"] == kind
        card = (tmp_path / weights / "README.md").read_text()
        assert ("these weights are not averaged" in card) == (weights == "raw")


def test_the_bias_of_the_sigmoid_loss_comes_along(tmp_path: Path) -> None:
    state = state_of(build_model(config())) | {"contrastive.bias": torch.tensor(-9.5)}
    write_checkpoint(tmp_path / "run", state_dict=state)
    export(tmp_path / "run", out=tmp_path / "out")
    assert load(tmp_path / "out").logit_bias == -9.5
    assert "model.logit_bias).sigmoid()" in (tmp_path / "out" / "README.md").read_text()


def test_no_export_is_overwritten_unless_told(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is free
    export(run, out=out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ConfigError, match=r"out=.*out already holds an export; .*overwrite=true"):
        export(run, out=out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    write_checkpoint(tmp_path / "other", step=8)
    export(tmp_path / "other", out=out, overwrite=True)
    assert load(out).config["source"]["step"] == 8
    assert names(tmp_path) == {"run", "other", "out"}


def test_what_is_no_export_is_never_overwritten(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for taken in ("mine", "mine/thesis.txt", "run"):
        with pytest.raises(ConfigError, match="exists and is no export"):
            export(run, out=tmp_path / taken, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_leaves_everything_as_it_was(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    if overwrite:
        export(run, out=tmp_path / "out")
    before = names(tmp_path)

    def fail(*_: object, **__: object) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(export_module, "model_card", fail)
    with pytest.raises(OSError, match="no space left"):
        export(run, out=tmp_path / "out", overwrite=overwrite)
    assert names(tmp_path) == before
    if overwrite:
        load(tmp_path / "out")


def test_a_diverged_run_is_not_exported(tmp_path: Path) -> None:
    state = state_of(build_model(config()))
    state["model.text_head.weight"][0, 0] = torch.nan
    write_checkpoint(tmp_path / "run", state_dict=state)
    with pytest.raises(DataError, match=r"NaN or infinity in text_head.weight: the run diverged"):
        export(tmp_path / "run", out=tmp_path / "out")
    assert names(tmp_path) == {"run"}


def test_a_checkpoint_without_its_tokenizer(run: Path, tmp_path: Path) -> None:
    (run / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"run has no tokenizer.json: a checkpoint is exported from its run folder"):
        export(run, out=tmp_path / "out")


@pytest.mark.parametrize("record", [None, "{torn", "[]", "{}"])
def test_a_run_record_is_not_needed(run: Path, tmp_path: Path, record: str | None) -> None:
    (run / "run.json").unlink()
    if record is not None:
        (run / "run.json").write_text(record)
    export(run, out=tmp_path / "out")
    assert "No evaluation is recorded." in (tmp_path / "out" / "README.md").read_text()
