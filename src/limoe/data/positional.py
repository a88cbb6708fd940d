"""Positional reads of files from any number of processes."""

import os
import time
import weakref
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from limoe.errors import DataError

MAX_OPEN = 128  # files per process; systems often allow 1,024
_WAITS = (0.1, 1.0, 5.0)  # seconds before a failed read is repeated, for network drives


class _OpenFile:
    """A file descriptor, closed when the object is collected."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)


class PositionalFiles:
    """Reads from many files, opened on first use; the `MAX_OPEN` last used stay open.

    Positional reads share no state, so forked loader workers may use the inherited descriptors; a pickled copy opens
    its own. Not thread-safe.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._opened = lru_cache(MAX_OPEN)(_OpenFile)

    def read(self, file: int, *, offset: int, size: int) -> bytes:
        """Read `size` bytes of file number `file` from `offset` on; raises `DataError` after repeated failures."""
        for wait in (*_WAITS, None):
            try:
                data = os.pread(self._opened(self.paths[file]).descriptor, size, offset)
                break
            except OSError as error:
                self._opened.cache_clear()
                if wait is None or isinstance(error, FileNotFoundError):
                    raise DataError(f"{self.paths[file]} cannot be read any more: {error.strerror}") from error
                time.sleep(wait)
        if len(data) != size:
            raise DataError(f"{self.paths[file]} became shorter while it was in use: no byte {offset + len(data):,}")
        return data

    def __reduce__(self) -> tuple:
        return PositionalFiles, (self.paths,)
