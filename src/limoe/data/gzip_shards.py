"""Shards compressed with gzip: unpacked once, then read by position like all others."""

import gzip
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from limoe.data.hashing import CHUNK, HashingFile
from limoe.errors import DataError
from limoe.files import replaced

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
    limit = max(MIN_LIMIT, MAX_GROWTH * path.stat().st_size)
    written, damage = 0, None
    with HashingFile(path, tick=tick) as source, io.BufferedReader(source, CHUNK) as packed, replaced(to) as out:
        with gzip.GzipFile(fileobj=packed) as file:
            try:
                while piece := file.read1(CHUNK):
                    written += len(piece)
                    if written > limit:
                        raise DataError(f"{path} unpacks to more than {limit:,} bytes; unpack it with gunzip")
                    out.write(piece)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                damage = f"its gzip data end or break after {written:,} unpacked bytes ({error})"
        while packed.read(CHUNK):
            pass  # what is left belongs to the hash
        return Unpacked(source.sha256(), damage)
