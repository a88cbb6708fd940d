"""Atomic replacement of files, hashes, and locks."""

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
