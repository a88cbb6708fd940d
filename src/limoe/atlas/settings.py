"""Settings of the atlas (keys of configs/atlas.yaml), and its folder: `atlas` in the run folder or `atlas_<hash>`."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from limoe.config.objects import plain
from limoe.errors import ConfigError, require
from limoe.files import read_object, write_json, write_text
from limoe.runs.layout import ATLAS

PAGE, NUMBERS = "index.html", "atlas.json"
RUN = "run"  # the value that the run was trained with
_LEAST = {"pairs": 1, "patches": 0, "words": 0, "min_occurrences": 1, "examples": 0, "knock_out_images": 1}


@dataclass(frozen=True)
class Settings:
    """Keys of configs/atlas.yaml, checked; slots are shared within `batch_size` pairs."""

    pairs: int
    seed: int
    patches: int
    words: int
    min_occurrences: int
    examples: int
    batch_size: int
    capacity_factor: float | str | None
    slot_priority: str
    knock_out_images: int
    knock_out_templates: int | None

    def __post_init__(self) -> None:
        for key, least in _LEAST.items():
            value = getattr(self, key)
            require(value >= least, key, f">= {least}", value)
        is_size = isinstance(self.batch_size, int) and self.batch_size >= 1
        require(is_size, "batch_size", ">= 1, or run", self.batch_size)
        templates = self.knock_out_templates
        require(templates is None or templates >= 1, "knock_out_templates", ">= 1, or null", templates)
        factor = self.capacity_factor
        is_factor = factor is None or factor == RUN or (isinstance(factor, int | float) and factor > 0)
        require(is_factor, "capacity_factor", "a number > 0, null or run", factor)


def settings_of(cfg: DictConfig, run_cfg: DictConfig) -> Settings:
    """Settings from the command's config; `batch_size=run` becomes the run's batch size."""
    names = {field.name for field in dataclasses.fields(Settings)}
    chosen = {key: value for key, value in plain(cfg).items() if key in names}
    if chosen["batch_size"] == RUN:
        chosen["batch_size"] = run_cfg.data.batch_size
    return Settings(**chosen)


def folder_for(run: Path, *, settings: dict[str, Any], out: Path | None) -> Path:
    """`out`, else `RUN/atlas`, else `RUN/atlas_<hash of the settings>` where `RUN/atlas` was made with other settings.
    Raises `ConfigError` if `out` holds an atlas of other settings, or something else.
    """
    if out is not None:
        if not _may_write(out, settings=settings):
            raise ConfigError(f"out={out} holds other files than an atlas of these settings; choose another folder")
        return out
    first = run / ATLAS
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return first if _may_write(first, settings=settings) else run / f"{ATLAS}_{digest}"


def write(folder: Path, *, page: str, record: dict[str, Any]) -> Path:
    """Write both files, each replaced in one step; return the path of the page."""
    write_text(folder / PAGE, page)
    write_json(folder / NUMBERS, record)
    return folder / PAGE


def _may_write(folder: Path, *, settings: dict[str, Any]) -> bool:
    """True where the folder is missing, empty, or holds an atlas of the same settings."""
    if not folder.is_dir():
        return not folder.exists()
    return not any(folder.iterdir()) or read_object(folder / NUMBERS).get("settings") == settings
