"""Shards compressed with gzip: unpacked once, then read by position like all others."""

import gzip
import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from limoe.errors import DataError
from limoe.files import replaced

_CHUNK = 1 << 20  # bytes at a time
MIN_LIMIT = 1 << 30  # bytes
MAX_GROWTH = 20  # pictures hardly shrink; a tar of tiny ones is half padding


class Unpacked(NamedTuple):
    """The sha256 of the compressed file, and what was wrong with its end (None: nothing)."""

    sha256: str
    damage: str | None


def is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def unpack(path: Path, *, to: Path, tick: Callable[[int], object]) -> Unpacked:
    """Write the unpacked bytes of `path` to the file `to`; of a cut or damaged file as many as can be had.

    Raises `DataError` on more than `MAX_GROWTH` times its size, and more than 1 GiB: a bomb must not fill the disk.
    """
    written, damage = 0, None
    with path.open("rb") as packed, replaced(to) as out:
        sha256 = hashlib.file_digest(packed, "sha256").hexdigest()
        size = packed.tell()
        limit = max(MIN_LIMIT, MAX_GROWTH * size)
        packed.seek(0)
        with gzip.GzipFile(fileobj=packed) as file:
            try:
                while piece := file.read1(_CHUNK):
                    written += len(piece)
                    if written > limit:
                        raise DataError(f"{path} unpacks to more than {limit:,} bytes; unpack it with gunzip")
                    out.write(piece)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                damage = f"its gzip data end or break after {written:,} unpacked bytes ({error})"
    tick(size)
    return Unpacked(sha256, damage)
