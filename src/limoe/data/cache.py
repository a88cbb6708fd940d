"""Paths of files derived from a data file: beside it, or in a cache folder."""

import hashlib
import os
from pathlib import Path


def cache_path(file: Path, *, suffix: str, cache_dir: str | Path | None = None) -> Path:
    """Path in `cache_dir`, else in $LIMOE_CACHE_DIR, if one is given; the name contains a hash of the file's path.

    Otherwise `<file><suffix>` beside the file, or in ~/.cache/limoe if its folder cannot be written to.
    """
    given = cache_dir or os.environ.get("LIMOE_CACHE_DIR")
    # a folder without any write permission counts as read-only for root too
    is_writable = os.access(file.parent, os.W_OK) and bool(file.parent.stat().st_mode & 0o222)
    if not given and is_writable:
        return file.with_name(file.name + suffix)
    folder = Path(given or Path.home() / ".cache" / "limoe")
    place = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    return folder / f"{file.name}.{place}{suffix}"


def stamp(file: Path) -> list[int]:
    """Size (bytes) and modification time (ns): a file with the same two numbers counts as unchanged."""
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns]
