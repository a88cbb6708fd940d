"""Weights in files: finding, safe reading, and checking against a model."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from limoe.errors import DataError, require_argument
from limoe.runs.layout import LAST_CHECKPOINT

WEIGHTS = ("saved", "ema", "raw")
_MODEL = "model."  # the network inside the LightningModule
_RAW = "current_model_state"  # weights of the training, where `state_dict` holds an average (Lightning's callback)


def find_checkpoint(path: Path, *, key: str = "ckpt") -> Path:
    """`path` if it is a .ckpt file, checkpoints/last.ckpt if it is a run folder; `key`: config key of `path`."""
    checkpoint = path / LAST_CHECKPOINT if path.is_dir() else path
    if not checkpoint.is_file():
        raise DataError(f"{key}: {checkpoint} does not exist; give a run folder or a .ckpt file")
    return checkpoint


def load_checkpoint(path: Path, *, key: str = "ckpt") -> dict[str, Any]:
    """Read a checkpoint: tensors and plain containers only. Raises `DataError` if the file is none of limoe."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on a broken file
        raise DataError(f"{key}: {path} cannot be read as a checkpoint: {type(error).__name__}: {error}") from error
    if not isinstance(state, dict) or not {"state_dict", "hyper_parameters", "global_step"} <= state.keys():
        raise DataError(f"{key}: {path} is no checkpoint of limoe; give a run folder or a .ckpt file in one")
    return state


def model_state(checkpoint: dict[str, Any], *, weights: str = "saved") -> dict[str, Tensor]:
    """Parameters and buffers of the network, under its own names.

    `weights`: "saved" = those that evaluation uses (the average where the run kept one), "ema" = the average or an
    error, "raw" = those that the optimizer updates.
    Raises `ArgumentError` if the run kept no average.
    """
    require_argument(weights in WEIGHTS, "weights", f"one of {', '.join(WEIGHTS)}", weights)
    average = has_average(checkpoint)
    require_argument(
        weights != "ema" or average, "weights", "saved or raw for a checkpoint without an average", weights
    )
    state = checkpoint[_RAW if weights == "raw" and average else "state_dict"]
    return {name.removeprefix(_MODEL): value for name, value in state.items() if name.startswith(_MODEL)}


def has_average(checkpoint: dict[str, Any]) -> bool:
    """True where the run kept an average of its weights over steps."""
    return _RAW in checkpoint


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises `DataError` if it cannot be read."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}") from error


def check_names(state: dict[str, Tensor], *, expected: dict[str, Tensor], place: str) -> None:
    """Check that `state` has the names and shapes of `expected`. Raises `DataError` if names are missing, unknown, or
    of another shape; lists the first three of each.
    """
    shapes = [
        f"{name} {list(state[name].shape)} instead of {list(expected[name].shape)}"
        for name in expected.keys() & state.keys()
        if state[name].shape != expected[name].shape
    ]
    problems = {
        "missing": expected.keys() - state.keys(),
        "unknown": state.keys() - expected.keys(),
        "of another shape": shapes,
    }
    found = [f"{kind}: {listed(names)}" for kind, names in problems.items() if names]
    if found:
        raise DataError(f"{place} does not fit the model: {'; '.join(found)}")


def listed(names: Collection[str], *, shown: int = 3) -> str:
    """`a, b, c and 4 more`, in order."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(sorted(names)[:shown]) + more
