"""Where the samples of one tar shard lie: a file of its own, mapped into memory, never copied into it.

Layout, numbers little-endian: the preamble (magic, version, bytes and crc32 of the header), the header (JSON: what the
shard was when it was indexed, its bad samples, the crc32 of all that follows), 8 bytes of hash per key, one `RECORD`
per sample, the keys as UTF-8. That is 56 bytes and the key per sample.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from limoe.data.bad_samples import BadSample, BadSamples
from limoe.errors import DataError
from limoe.files import replaced

SUFFIX = ".index"
VERSION = 1
_MAGIC = b"limoetar"
_PREAMBLE = struct.Struct("<8sIII")
_HASH = np.dtype("<u8")
_CHUNK = 1 << 20
# An offset of 0 says that there is no such member: byte 0 of a tar is a header.
RECORD = np.dtype(
    [
        *((f"{part}_offset", "<u8") for part in ("picture", "text", "fields", "key")),
        *((f"{part}_size", "<u4") for part in ("picture", "text", "fields", "key")),
    ]
)


class Span(NamedTuple):
    """`size` bytes from `offset` on."""

    offset: int
    size: int


class Located(NamedTuple):
    """One sample: its key, and where in the shard its picture, its .txt and its .json are."""

    key: str
    picture: Span
    text: Span | None
    fields: Span | None


class Stamp(NamedTuple):
    """A file that has the same two numbers as before is taken for unchanged."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        stat = path.stat()
        return cls(stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True)
class ShardFacts:
    """What is known about a shard beside its samples. `unpacked` is the size of the unpacked copy of a gzip shard.

    `bad` holds (key, kind, reason); `bad_counts` counts all of them by kind.
    """

    size: int
    mtime_ns: int
    sha256: str
    unpacked: int | None
    damage: str | None
    bad: list[list[str]]
    bad_counts: dict[str, int]

    @property
    def stamp(self) -> Stamp:
        return Stamp(self.size, self.mtime_ns)

    def bad_samples(self, place: str) -> BadSamples:
        found = BadSamples(first=[BadSample(place, *entry) for entry in self.bad])
        found.counts.update(self.bad_counts)
        return found


class ShardIndex:
    """The index file at `path`. A pickled copy maps the file again.

    Raises `ValueError` on a file that is damaged, of another version, or no index; `OSError` where there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            magic, version, length, checksum = _PREAMBLE.unpack(_exactly(file.read(_PREAMBLE.size), _PREAMBLE.size))
            _check(magic == _MAGIC and version == VERSION)
            header = _exactly(file.read(length), length)
            _check(zlib.crc32(header) == checksum)
            self._start = file.tell()
            fields = json.loads(header)
            self._size, self._key_bytes, body = fields.pop("samples"), fields.pop("key_bytes"), fields.pop("crc32")
            self.facts = ShardFacts(**fields)
            _check(_checksum(iter(lambda: file.read(_CHUNK), b"")) == body)
        self._map()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, row: int) -> Located:
        *offsets, picture, text, fields, key = self._records[row].item()
        at = [Span(*span) for span in zip(offsets, (picture, text, fields, key), strict=True)]
        name = bytes(self._keys[at[3].offset : at[3].offset + at[3].size]).decode("utf-8")
        return Located(name, at[0], at[1] if at[1].offset else None, at[2] if at[2].offset else None)

    def hashes(self) -> np.ndarray:
        """[samples] uint64, read from the file, not kept."""
        return np.fromfile(self.path, dtype=_HASH, count=self._size, offset=self._start)

    def __reduce__(self) -> tuple:
        return _mapped_again, (self.path, self.facts.sha256)

    def _map(self) -> None:
        records = self._start + self._size * _HASH.itemsize
        keys = records + self._size * RECORD.itemsize
        # An empty part cannot be mapped.
        self._records = _mapped(self.path, RECORD, records, self._size)
        self._keys = _mapped(self.path, np.dtype(np.uint8), keys, self._key_bytes)


def write_index(path: Path, *, facts: ShardFacts, samples: list[Located]) -> None:
    """Raises `OSError` where nothing can be written."""
    keys = [sample.key.encode("utf-8") for sample in samples]
    records = np.zeros(len(samples), dtype=RECORD)
    place = 0
    for row, (sample, key) in enumerate(zip(samples, keys, strict=True)):
        spans = (sample.picture, sample.text or Span(0, 0), sample.fields or Span(0, 0), Span(place, len(key)))
        records[row] = (*(span.offset for span in spans), *(span.size for span in spans))
        place += len(key)
    hashes = np.array([_key_hash(key) for key in keys], dtype=_HASH)
    body = [hashes.tobytes(), records.tobytes(), *keys]
    header = asdict(facts) | {"samples": len(samples), "key_bytes": place, "crc32": _checksum(iter(body))}
    encoded = json.dumps(header).encode()
    with replaced(path) as file:
        file.write(_PREAMBLE.pack(_MAGIC, VERSION, len(encoded), zlib.crc32(encoded)) + encoded)
        file.writelines(body)


def _mapped_again(path: Path, sha256: str) -> ShardIndex:
    index = ShardIndex(path)
    if index.facts.sha256 != sha256:
        raise DataError(f"{path} was written anew while it was in use: its shard changed; start again")
    return index


def _key_hash(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little")


def _mapped(path: Path, dtype: np.dtype, offset: int, count: int) -> np.ndarray:
    return np.memmap(path, dtype, mode="r", offset=offset, shape=(count,)) if count else np.empty(0, dtype)


def _checksum(pieces: Iterator[bytes]) -> int:
    checksum = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    return checksum


def _exactly(data: bytes, size: int) -> bytes:
    _check(len(data) == size)
    return data


def _check(holds: bool) -> None:
    if not holds:
        raise ValueError("no index of this version")
