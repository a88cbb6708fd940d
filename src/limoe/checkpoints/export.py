"""Export of a checkpoint: weights, config, tokenizer and model card for `limoe.load`."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

import limoe
from limoe.checkpoints.files import find_checkpoint, has_average, listed, load_checkpoint, model_state
from limoe.checkpoints.pretrained import (
    CARD,
    CONFIG,
    FORMAT,
    FORMAT_VERSION,
    WEIGHTS,
    load,
    read_config,
    self_contained,
)
from limoe.errors import ConfigError, DataError
from limoe.files import read_object, sha256, write_json
from limoe.reporting.model_card import model_card
from limoe.runs.layout import RECORD, TOKENIZER

_RECORDED = ("command", "config_hash", "git_commit", "seed", "versions", "status")
_BIAS = "contrastive.bias"


def export(ckpt: Path, *, out: Path, weights: str = "saved", overwrite: bool = False) -> list[Path]:
    """Export a run folder or a .ckpt file inside one; return the files written.

    The folder appears under its name only when it is complete and has been read back bit by bit.
    `weights`: see `limoe.checkpoints.files.model_state`.
    Raises `ConfigError` if `out` is taken, or the checkpoint has no such weights, `DataError` if checkpoint or
    tokenizer is missing or broken.
    """
    check_free(out, overwrite=overwrite)
    file = find_checkpoint(ckpt)
    run = file.parents[1] if len(file.parents) > 1 else file.parent
    if not (run / TOKENIZER).is_file():
        raise DataError(f"{run} has no {TOKENIZER}: a checkpoint is exported from its run folder; give that")
    checkpoint = load_checkpoint(file)
    state = {name: value.contiguous() for name, value in model_state(checkpoint, weights=weights).items()}
    broken = [name for name, value in state.items() if not value.isfinite().all()]
    if broken:
        raise DataError(f"{file} holds NaN or infinity in {listed(broken)}: the run diverged; export an earlier step")
    record = read_object(run / RECORD)  # an export does not depend on it
    with _replaced(out) as folder:
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
        shutil.copyfile(run / TOKENIZER, folder / TOKENIZER)
        hashes = {name: sha256(folder / name) for name in (WEIGHTS, TOKENIZER)}
        parameters = sum(value.numel() for value in state.values())
        config = _config(checkpoint, hashes=hashes, record=record, weights=weights, parameters=parameters)
        write_json(folder / CONFIG, config)
        shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # safetensors writes for the owner alone
        measured = weights != "raw" or not has_average(checkpoint)
        card = model_card(config, run=checkpoint["hyper_parameters"], record=record, name=out.name, measured=measured)
        (folder / CARD).write_text(card, encoding="utf-8")
        loaded = load(folder).model.state_dict()
        different = [name for name in state if not torch.equal(loaded[name], state[name].to(loaded[name].dtype))]
        assert not different, f"read back differently: {different}"
    return [out / name for name in (WEIGHTS, CONFIG, TOKENIZER, CARD)]


def check_free(out: Path, *, overwrite: bool) -> None:
    """Check that `out` may be written: it is missing, empty, or with `overwrite` an export. Raises `ConfigError` if
    `out` is taken.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        read_config(out)
    except DataError as error:
        raise ConfigError(f"out={out} exists and is no export; choose another folder") from error
    if not overwrite:
        raise ConfigError(f"out={out} already holds an export; choose another folder or add overwrite=true")


def _config(
    checkpoint: dict[str, Any], *, hashes: dict[str, str], record: dict[str, Any], weights: str, parameters: int
) -> dict[str, Any]:
    run = checkpoint["hyper_parameters"]
    bias = checkpoint["state_dict"].get(_BIAS)
    kind = "ema" if weights != "raw" and has_average(checkpoint) else "raw"
    source = {"step": checkpoint["global_step"], "weights": kind, "parameters": parameters}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "limoe_version": limoe.__version__,
        "model": self_contained(run["model"]),
        "preprocess": run["data"]["module"]["eval_transform"],
        "logit_bias": None if bias is None else bias.item(),
        "sha256": hashes,
        "source": source | {key: record[key] for key in _RECORDED if key in record},
    }


@contextmanager
def _replaced(out: Path) -> Iterator[Path]:
    """A new folder that replaces `out` when the block ends without an error, else is removed."""
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
        new, old = Path(beside, "new"), Path(beside, "old")
        new.mkdir()
        try:
            yield new
            if out.exists():
                out.rename(old)
            new.rename(out)
        finally:
            if old.exists() and not out.exists():
                old.rename(out)
