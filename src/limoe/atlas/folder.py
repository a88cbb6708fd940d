"""Folder of an atlas: `atlas` in the run folder, or `atlas_<hash of the settings>`."""

import hashlib
import json
from pathlib import Path
from typing import Any

from limoe.errors import ConfigError
from limoe.files import read_object, write_json, write_text
from limoe.runs.layout import ATLAS

PAGE, NUMBERS = "index.html", "atlas.json"


def folder_for(run: Path, *, settings: dict[str, Any], out: Path | None) -> Path:
    """`out`, else `RUN/atlas`, else `RUN/atlas_<hash of the settings>` where `RUN/atlas` was made with other settings.

    Raises:
        ConfigError: `out` holds an atlas of other settings, or something else.
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
