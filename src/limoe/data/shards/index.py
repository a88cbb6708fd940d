"""Index of one tar shard: a memory-mapped file with the positions of its samples.

Layout, numbers little-endian: the preamble (magic, version, bytes and crc32 of the header), the header (JSON:
`ShardFacts`, number of samples and bytes of keys, crc32 of all that follows), 8 bytes of hash per key, one `RECORD` per
sample, the keys as UTF-8. That is 56 bytes and the key per sample.
"""

import json
import struct
import zlib
from collections import Counter
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from limoe.data.bad_samples import BadSample, BadSamples
from limoe.errors import DataError
from limoe.files import replaced

SUFFIX = ".index"
VERSION = 3
_MAGIC = b"limoetar"
_PREAMBLE = struct.Struct("<8sIII")
_HASH = np.dtype("<u8")
_CHUNK = 1 << 20
_NO_INDEX = "no index of this version"
# Offset 0 means that there is no such member: byte 0 of a tar is a header.
RECORD = np.dtype(
    [
        *((f"{part}_offset", "<u8") for part in ("image", "text", "fields", "key")),
        *((f"{part}_size", "<u4") for part in ("image", "text", "fields", "key")),
    ]
)


class Span(NamedTuple):
    """`size` bytes from `offset` on."""

    offset: int
    size: int


class Located(NamedTuple):
    """One sample: its key, and the positions of its image, its .txt and its .json in the shard."""

    key: str
    image: Span
    text: Span | None
    fields: Span | None


@dataclass(frozen=True)
class ShardFacts:
    """State of a shard when it was indexed. `bad` holds (key, kind, reason); `bad_counts` counts all by kind."""

    size: int
    mtime_ns: int
    sha256: str
    damage: str | None
    bad: list[list[str]]
    bad_counts: dict[str, int]

    def bad_samples(self, place: str) -> BadSamples:
        return BadSamples(Counter(self.bad_counts), [BadSample(place, *entry) for entry in self.bad])


class ShardIndex:
    """The index file at `path`. A pickled copy maps the file again.

    Raises `ValueError` on a file that is damaged, of another version, or no index; `OSError` if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            preamble = file.read(_PREAMBLE.size).ljust(_PREAMBLE.size)
            magic, version, length, checksum = _PREAMBLE.unpack(preamble)
            header = file.read(length) if (magic, version) == (_MAGIC, VERSION) else b""
            if not header or zlib.crc32(header) != checksum:
                raise ValueError(_NO_INDEX)
            self._start = file.tell()
            body = 0
            while piece := file.read(_CHUNK):
                body = zlib.crc32(piece, body)
            mapped = np.memmap(file, np.uint8, mode="r")[self._start :]
        fields = json.loads(header)
        self._size, _, expected = (fields.pop(name) for name in ("samples", "key_bytes", "crc32"))
        if body != expected:
            raise ValueError(_NO_INDEX)
        self.facts = ShardFacts(**fields)
        hashes, records, self._keys = np.split(mapped, np.cumsum([_HASH.itemsize, RECORD.itemsize]) * self._size)
        self.hashes = hashes.view(_HASH)  # of the keys, in the order of the samples
        self._records = records.view(RECORD)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, row: int) -> Located:
        *offsets, image, text, fields, key = self._records[row].item()
        at = [Span(*span) for span in zip(offsets, (image, text, fields, key), strict=True)]
        name = bytes(self._keys[at[3].offset : at[3].offset + at[3].size]).decode("utf-8")
        return Located(name, at[0], at[1] if at[1].offset else None, at[2] if at[2].offset else None)

    def __reduce__(self) -> tuple:
        return _mapped_again, (self.path, self.facts.sha256)


def write_index(path: Path, *, facts: ShardFacts, samples: list[Located]) -> None:
    """Write the index file of a shard; raises `OSError` if that fails."""
    keys = [sample.key.encode("utf-8") for sample in samples]
    records = np.zeros(len(samples), dtype=RECORD)
    place = 0
    for row, (sample, key) in enumerate(zip(samples, keys, strict=True)):
        spans = (sample.image, sample.text or Span(0, 0), sample.fields or Span(0, 0), Span(place, len(key)))
        records[row] = (*(span.offset for span in spans), *(span.size for span in spans))
        place += len(key)
    hashes = np.array([_key_hash(key) for key in keys], dtype=_HASH)
    body = b"".join([hashes.tobytes(), records.tobytes(), *keys])
    header = asdict(facts) | {"samples": len(samples), "key_bytes": place, "crc32": zlib.crc32(body)}
    encoded = json.dumps(header).encode()
    with replaced(path) as file:
        file.write(_PREAMBLE.pack(_MAGIC, VERSION, len(encoded), zlib.crc32(encoded)) + encoded + body)


def _mapped_again(path: Path, sha256: str) -> ShardIndex:
    index = ShardIndex(path)
    if index.facts.sha256 != sha256:
        raise DataError(f"{path} was rewritten while it was in use, since its shard changed; start the run again")
    return index


def _key_hash(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little")
