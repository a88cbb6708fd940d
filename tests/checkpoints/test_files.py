"""Which weights a checkpoint holds, and what is said when they do not fit."""

from pathlib import Path

import pytest
import torch

from limoe.checkpoints.files import (
    check_names,
    find_checkpoint,
    has_average,
    listed,
    load_checkpoint,
    model_state,
    read_tensors,
)
from limoe.errors import DataError
from tests.helpers.fake_checkpoint import write_checkpoint

AVERAGED = {  # as Lightning's WeightAveraging writes it
    "state_dict": {"model.w": torch.ones(1), "contrastive.bias": torch.zeros(1)},
    "current_model_state": {"model.w": torch.zeros(1), "contrastive.bias": torch.zeros(1)},
}
PLAIN = {"state_dict": {"model.w": torch.full((1,), 2.0), "model.model.w": torch.ones(1)}}


@pytest.mark.parametrize(("weights", "value"), [("saved", 1.0), ("ema", 1.0), ("raw", 0.0)])
def test_weights_of_a_run_with_an_average(weights: str, value: float) -> None:
    state = model_state(AVERAGED, weights=weights)
    assert has_average(AVERAGED) and list(state) == ["w"] and state["w"].item() == value


def test_weights_of_a_run_without() -> None:
    assert not has_average(PLAIN)
    assert [list(model_state(PLAIN, weights=kind)) for kind in ("saved", "raw")] == [["w", "model.w"]] * 2
    with pytest.raises(ValueError, match="saved or raw for a checkpoint without an average, got 'ema'"):
        model_state(PLAIN, weights="ema")
    with pytest.raises(ValueError, match="weights must be one of saved, ema, raw, got 'best'"):
        model_state(PLAIN, weights="best")


def test_a_run_folder_means_its_newest_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "run", step=3)
    file = find_checkpoint(tmp_path / "run")
    assert file == find_checkpoint(file) == tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert load_checkpoint(file)["global_step"] == 3
    with pytest.raises(DataError, match=r"init_from.path: .*nowhere does not exist; give a run folder or a .ckpt file"):
        find_checkpoint(tmp_path / "nowhere", key="init_from.path")


class Gadget:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("touched"),)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"state_dict": Gadget()}, "bad.ckpt")
    with pytest.raises(DataError, match=r"ckpt: bad.ckpt cannot be read as a checkpoint"):
        load_checkpoint(Path("bad.ckpt"))
    assert not Path("touched").exists()


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04" + bytes(99)], ids=["empty", "html", "torn zip"])
def test_files_that_are_no_weights(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"ckpt: .*file cannot be read as a checkpoint"):
        load_checkpoint(file)
    with pytest.raises(DataError, match=r"file cannot be read as safetensors"):
        read_tensors(file)


def test_another_torch_file_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"w.pth is no checkpoint of limoe"):
        load_checkpoint(tmp_path / "w.pth")


def test_names_and_shapes_that_differ_are_all_told() -> None:
    expected = {name: torch.ones(2, 3) for name in ("a", "b", "c", "d", "e", "f")}
    state = {"a": torch.ones(2, 3), "b": torch.ones(3, 2), "z": torch.ones(1)}
    with pytest.raises(DataError) as caught:
        check_names(state, expected=expected, place="w")
    problems = "missing: c, d, e and 1 more; unknown: z; of another shape: b [3, 2] instead of [2, 3]"
    assert str(caught.value) == f"w does not fit the model: {problems}"
    check_names(expected, expected=dict(expected), place="w")


def test_listed() -> None:
    assert listed({"b", "a"}) == "a, b"
    assert listed(["d", "c", "b", "a"], shown=2) == "a, b and 2 more"
