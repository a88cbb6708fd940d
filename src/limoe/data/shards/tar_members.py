"""The members of a tar file, from its headers: nothing is extracted, no link is followed.

Python's `tarfile` stops without an error at a damaged header, so a run would train on a part of a broken shard; here
the damage is recorded with its byte offset. Reads USTAR with prefix, PAX and GNU long names.
"""

from collections.abc import Iterator
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from limoe.errors import DataError

BLOCK = 512
_END = bytes(BLOCK)
_GZIP = b"\x1f\x8b"
_PIECE = 1 << 20  # bytes after the end mark, checked in pieces of this size
_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes: their size field means nothing
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_MAX_EXTENSION = 1 << 20  # bytes of a long name or PAX record


class Member(NamedTuple):
    """One regular file in a tar: `size` bytes from `offset` on."""

    name: str
    offset: int
    size: int


class _Damage(Exception):
    """The file is damaged from byte `offset` on."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(f"damaged at byte {offset:,}: {what}")


class TarMembers:
    """The regular files of the tar `file` of `size` bytes, in order. Only headers and long names are read.

    Iterate once; then `damage` says where and why the walk stopped (None: at the end), and `has_end` whether there was
    an end mark. Members before a damage are good. Raises `DataError` on a file that is not a tar, naming `path`.
    """

    def __init__(self, file: BufferedReader, *, size: int, path: Path) -> None:
        self.damage: str | None = None
        self.has_end = False
        self._file = file
        self._size = size
        self._path = path

    def __iter__(self) -> Iterator[Member]:
        try:
            yield from self._walk()
        except _Damage as damage:
            self.damage = str(damage)

    def _walk(self) -> Iterator[Member]:
        if self._size == 0:
            raise _Damage(0, "the file is empty")
        extended: dict[str, str] = {}
        while (start := self._file.tell()) < self._size:
            header = self._file.read(BLOCK)
            if header == _END:
                self.has_end = True
                rest = iter(partial(self._file.read, _PIECE), b"")
                if any(piece.strip(b"\0") for piece in rest):
                    raise _Damage(start + BLOCK, "there is data after the end mark")
                return
            self._check_header(header, start)
            kind = header[156:157]
            size = 0 if kind in _WITHOUT_DATA else _size(header, extended, start)
            end = start + BLOCK + -(-size // BLOCK) * BLOCK  # members are padded to whole blocks
            if end > self._size:
                lacking = end - self._size
                raise _Damage(start, f"its member needs {size:,} bytes, the file ends {lacking:,} before its end")
            if kind in (_LONG_NAME, _PAX):
                extended |= self._extension(kind, size)
            elif kind in _REGULAR:
                yield Member(extended.get("path") or _name(header), start + BLOCK, size)
            if kind not in (_LONG_NAME, _PAX, _LONG_LINK, _PAX_GLOBAL):
                extended = {}
            self._file.seek(end)

    def _check_header(self, header: bytes, start: int) -> None:
        if start == 0 and header.startswith(_GZIP):
            raise DataError(f"{self._path} is packed by gzip; shards are read by position: unpack it (gunzip)")
        if len(header) < BLOCK:
            raise _Damage(start, f"the file ends inside a header ({len(header)} of {BLOCK} bytes)")
        # The field itself counts as eight spaces.
        if _octal(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * 0x20:
            if start == 0 and header[257:262] != b"ustar":
                raise DataError(f"{self._path} is not a tar file (no tar header at byte 0); remove or replace it")
            raise _Damage(start, "the checksum of the header is wrong")

    def _extension(self, kind: bytes, size: int) -> dict[str, str]:
        """Fields of the next member (`path`, `size`, ...) from a long-name or PAX record."""
        start = self._file.tell()
        if size > _MAX_EXTENSION:
            raise _Damage(start, f"a member name of {size:,} bytes")
        data = self._file.read(size)
        return {"path": _text(data)} if kind == _LONG_NAME else _pax_records(data, start)


def _pax_records(data: bytes, start: int) -> dict[str, str]:
    """Fields of PAX records `LENGTH KEY=VALUE\\n`; LENGTH counts the bytes of the whole record."""
    found = {}
    place = 0
    while place < len(data):
        length, _, _ = data[place : place + 12].partition(b" ")
        record = data[place : place + int(length)] if length.isdigit() else b""
        key, equals, value = record[len(length) + 1 :].partition(b"=")
        if not equals or not record.endswith(b"\n"):
            raise _Damage(start + place, "a damaged PAX record")
        found[key.decode("utf-8", "replace")] = value[:-1].decode("utf-8", "replace")
        place += len(record)
    return found


def _size(header: bytes, extended: dict[str, str], start: int) -> int:
    field = header[124:136]
    if "size" in extended:
        size = int(extended["size"]) if extended["size"].isdecimal() and len(extended["size"]) < 20 else None
    elif field[0] == 0x80:  # GNU: a binary number, for members of 8 GiB and more
        size = int.from_bytes(field[1:], "big")
    else:
        size = _octal(field)
    if size is None or size < 0:
        raise _Damage(start, "the size of a member is not a number")
    return size


def _octal(field: bytes) -> int | None:
    try:
        return int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        return None


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")
