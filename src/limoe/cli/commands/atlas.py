"""Show what the experts of a trained model compute: patches, words, dropped tokens and the effect of each, as a page.

limoe atlas logs/emoji/runs/<run id>                           writes atlas/index.html and atlas.json there
limoe atlas RUN eval=[emoji_identity] source=emoji_identity    the images of a task instead of the validation split
limoe atlas RUN knock_out=null                                 without the expert knock-out, which is slow
limoe atlas RUN capacity_factor=0.75 slot_priority=first_come  dropped tokens for this capacity and priority
"""

import shlex
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

import limoe
from limoe.atlas.finished import atlas_config, images_of, zero_shot_of
from limoe.atlas.page import headline, render
from limoe.atlas.settings import folder_for, settings_of, write
from limoe.atlas.survey import survey
from limoe.build import build_trained
from limoe.checkpoints.files import find_checkpoint, load_checkpoint
from limoe.config.objects import plain
from limoe.errors import ConfigError
from limoe.files import sha256
from limoe.runs.layout import TOKENIZER

POSITIONAL = "ckpt"
_VALIDATION = "val"
_PLACES = ("ckpt", "out", "accelerator", "data", "paths", "task")  # keys that change no number


def run(cfg: DictConfig) -> None:
    """Write the page and its numbers, and print their path."""
    checkpoint = find_checkpoint(Path(cfg.ckpt))
    state = load_checkpoint(checkpoint)
    run_folder = checkpoint.parents[1]
    run_cfg = atlas_config(state["hyper_parameters"], root=cfg.data.root, tasks=cfg.eval)
    settings = settings_of(cfg, run_cfg)
    chosen = {key: value for key, value in plain(cfg).items() if key not in _PLACES}
    chosen |= {"eval": plain(run_cfg)["eval"], "checkpoint_sha256": sha256(checkpoint)}
    folder = folder_for(run_folder, settings=chosen, out=None if cfg.out is None else Path(cfg.out))
    if cfg.source != _VALIDATION:
        run_cfg.data.module.val = None  # its data may be missing
    tokenizer = run_folder / TOKENIZER
    model, data = build_trained(run_cfg, state, tokenizer=tokenizer, accelerator=cfg.accelerator)
    pairs = data.val if cfg.source == _VALIDATION else images_of(run_cfg, cfg.source)
    if pairs is None:
        raise ConfigError("source must be a task, since this run has no validation split, got 'val'")
    found = survey(model, data, pairs, task=zero_shot_of(run_cfg, cfg.knock_out), settings=settings)
    about = {
        "name": f"{run_cfg.task} · {run_folder.resolve().name}",
        "step": state["global_step"],
        "source": "the validation split" if cfg.source == _VALIDATION else cfg.source,
        "facts": _facts(checkpoint, chosen),
    }
    page = write(folder, page=render(found, about=about), record={"settings": chosen, "about": about, **found.record})
    print(headline(found.record))
    print(f"atlas: {page}")


def _facts(checkpoint: Path, chosen: dict[str, Any]) -> dict[str, str]:
    """Command, checkpoint, version and settings of the page, by name."""
    return {
        "command": shlex.join(["limoe", *sys.argv[1:]]),
        "checkpoint": str(checkpoint),
        "sha256": chosen["checkpoint_sha256"],
        "limoe": limoe.__version__,
        "settings": ", ".join(f"{key}={value}" for key, value in chosen.items() if not isinstance(value, dict)),
        "tasks": ", ".join(chosen["eval"]),
    }
