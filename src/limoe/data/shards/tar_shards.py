"""Image-text pairs in tar shards of the webdataset layout, read by position.

One sample is a group of members with one key: `KEY.png` (jpg, jpeg, png or webp), `KEY.txt` (a caption) and `KEY.json`
(`captions`: a list of texts, or `caption`; every other text field is a label). The key is the name up to the first dot
after the last slash. Members with other suffixes are never read.
"""

import logging
import os
import re
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np

from limoe.data.bad_samples import BadContent, BadSample, BadSampleError, BadSamples, LeavesOutBad
from limoe.data.images.decoding import decode_rgb
from limoe.data.pairs import DescribedPairs, Description
from limoe.data.shards.builder import Read, describe
from limoe.data.shards.index import Located
from limoe.data.shards.indexed_shards import VERIFY, index_shards, repeated_keys
from limoe.errors import DataError, require_argument
from limoe.types import Pair

log = logging.getLogger(__name__)

_SUFFIXES = (".tar", ".tar.gz", ".tgz")  # the packed ones are refused by name
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


class TarShards(DescribedPairs, LeavesOutBad):
    """All samples of `<root>/shards/<split>-*.tar`, or of `<root>/<split>-*.tar`, in the order of the shards.

    The positions of the samples are in a memory-mapped index file per shard (`files.cache_path`), so that a process
    holds a few numbers per shard and nothing per sample; captions and images are read on access. `verify` is the check
    of an index: `changed` (size and modification time of the shard), or `full` (its sha256, which reads all shards).

    `bad` counts the samples left out: those without image or caption or with unreadable text, repeated keys, and
    damaged shards. Raises `DataError` on a missing folder or split, a file that is no tar, and a split without a usable
    sample; reading a sample raises `BadSampleError`.
    """

    def __init__(self, *, root: str, split: str, cache_dir: str | None = None, verify: str = "changed") -> None:
        require_argument(verify in VERIFY, "verify", " or ".join(VERIFY), verify)
        self.root = root
        self.split = split
        self.shards = _find_shards(root, split)
        self._indexes = index_shards(self.shards, cache_dir=cache_dir, verify=verify)
        self._files = PositionalFiles(self.shards)
        self._starts = np.cumsum([0, *map(len, self._indexes)])
        self._left_out = np.array(repeated_keys(self._indexes), dtype=np.int64)
        self._skips = self._left_out - np.arange(len(self._left_out))  # kept samples before each one left out
        self.bad = self._bad_samples()
        if len(self) == 0:
            raise DataError(
                f"{self.shards[0].parent}/{split}-*: no usable sample in {len(self.shards)} shards"
                + "".join(f"; {bad.place}: {bad.reason}" for bad in self.bad.first[:1])
            )

    def __len__(self) -> int:
        return int(self._starts[-1]) - len(self._left_out)

    def __getitem__(self, index: int) -> Pair:
        shard, sample = self._find(index)
        with self._naming(shard, sample):
            image = decode_rgb(self._reader(shard)(sample.image))
            return Pair(image, *describe(sample, read=self._reader(shard)))

    def describe(self, index: int) -> Description:
        shard, sample = self._find(index)
        with self._naming(shard, sample):
            return describe(sample, read=self._reader(shard))

    def _find(self, index: int) -> tuple[int, Located]:
        """Shard and position of sample `index`, counted without the samples left out."""
        place = range(len(self))[index]
        return self._at(place + int(np.searchsorted(self._skips, place, "right")))

    def _at(self, place: int) -> tuple[int, Located]:
        shard = int(np.searchsorted(self._starts, place, "right")) - 1
        return shard, self._indexes[shard][place - int(self._starts[shard])]

    @contextmanager
    def _naming(self, shard: int, sample: Located) -> Iterator[None]:
        try:
            yield
        except BadContent as error:
            raise BadSampleError(error.at(str(self.shards[shard]), sample.key)) from error

    def _reader(self, shard: int) -> Read:
        return lambda span: self._files.read(shard, offset=span.offset, size=span.size)

    def _bad_samples(self) -> BadSamples:
        bad = BadSamples()
        for path, index in zip(self.shards, self._indexes, strict=True):
            if index.facts.damage:
                log.warning("%s is %s; %d whole samples before that are used", path, index.facts.damage, len(index))
            bad.merge(index.facts.bad_samples(str(path)))
        for place in self._left_out.tolist():
            shard, sample = self._at(place)
            bad.add(BadSample(str(self.shards[shard]), sample.key, "duplicate_key", "an earlier shard has the key too"))
        return bad


def _find_shards(root: str, split: str) -> list[Path]:
    if re.match(r"\w{2,}:", root):
        raise DataError(f"data.root must be a local folder, got {root!r}; copy the shards to this machine")
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(
            f"data.root: folder {folder} does not exist; set data.root=/path/to/{folder.name}, "
            "or LIMOE_DATA_DIR to the folder that holds it"
        )
    for place in (folder / "shards", folder):
        names = sorted(place.iterdir()) if place.is_dir() else []
        if shards := [path for path in names if path.name.startswith(f"{split}-") and path.name.endswith(_SUFFIXES)]:
            return shards
    raise DataError(f"data.root: no {split}-*.tar in {folder}/shards or {folder}; is this the folder of the dataset?")
