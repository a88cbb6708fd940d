"""Shards compressed with gzip: unpacked once, then read by position like other shards."""

import gzip
import zlib
from pathlib import Path

from limoe.errors import DataError
from limoe.files import replaced

_CHUNK = 1 << 20  # bytes at a time
MIN_LIMIT = 1 << 30  # bytes
MAX_GROWTH = 20  # ratio; images hardly compress, a tar of tiny ones is half padding


def is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def unpack(path: Path, *, to: Path) -> str | None:
    """Unpack `path` to the file `to`; of a cut or damaged file as many bytes as can be read.

    Returns the damage of the file (None: intact).
    Raises `DataError` on a result above both `MAX_GROWTH` times its size and 1 GiB (decompression bomb).
    """
    written = 0
    damage = None
    with path.open("rb") as packed, replaced(to) as out:
        limit = max(MIN_LIMIT, MAX_GROWTH * path.stat().st_size)
        with gzip.GzipFile(fileobj=packed) as file:
            try:
                while piece := file.read1(_CHUNK):
                    written += len(piece)
                    if written > limit:
                        raise DataError(f"{path} unpacks to more than {limit:,} bytes; unpack it with gunzip")
                    out.write(piece)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                damage = f"its gzip data end or break after {written:,} unpacked bytes ({error})"
    return damage
