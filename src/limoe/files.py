"""Atomic replacement of files, hashes, locks, and the places of derived files."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write that replaces `path` when the block ends without an error.

    It is written beside `path` under a temporary name, flushed to the disk and renamed; after an error it is removed.
    Missing folders are created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with temporary.open("xb") as file:  # with the usual rights of a new file, unlike `tempfile`
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace `path` by UTF-8 text. A lone surrogate, as a broken caption may hold one, becomes "?"."""
    with replaced(path) as file:
        file.write(text.encode("utf-8", errors="replace"))


def write_json(path: Path, content: Any) -> None:
    """Replace `path` by strict, indented JSON. Raises `ValueError` for NaN and infinity."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where the file is missing, torn, or holds something else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def sha256(path: Path) -> str:
    """sha256 of the content of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def try_lock(path: Path) -> Iterator[IO[str] | None]:
    """Lock `path` inside the block: yields the open lock file, or None if another process of this machine holds it.

    A child process that inherits the file descriptor holds the lock too, and keeps it when this process ends.
    """
    with path.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
        else:
            yield file


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
