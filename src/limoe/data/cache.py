"""Where what was computed from a data file is kept: beside the file, or in a cache folder where that is read-only."""

import hashlib
import os
from pathlib import Path


def cache_path(file: Path, *, suffix: str, cache_dir: str | Path | None = None) -> Path:
    """In `cache_dir`, or else $LIMOE_CACHE_DIR, if one is given, under a name that tells apart files of the same name.

    Otherwise `<file><suffix>` beside the file, or in ~/.cache/limoe if its folder cannot be written to.
    """
    given = cache_dir or os.environ.get("LIMOE_CACHE_DIR")
    if not given and _is_writable(file.parent):
        return file.with_name(file.name + suffix)
    folder = Path(given or Path.home() / ".cache" / "limoe")
    place = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    return folder / f"{file.name}.{place}{suffix}"


def stamp(file: Path) -> list[int]:
    """Size and time of change: a file that has the same two numbers as before is taken for unchanged."""
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _is_writable(folder: Path) -> bool:
    """A folder that nobody may write to counts as read-only for root too, whom the system does not stop."""
    return os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)
