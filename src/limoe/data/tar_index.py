"""The members of a tar file, found by walking its headers: nothing is extracted, no link is followed.

Python's `tarfile` ends without a word at a damaged header, so a broken shard would train on a part of its samples. Here
every damage is a `DataError` that names the file and the byte. Reads USTAR with prefix, PAX and GNU long names.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from limoe.errors import DataError

log = logging.getLogger(__name__)

BLOCK = 512
_END = bytes(BLOCK)
_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes: their size field means nothing
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_MAX_EXTENSION = 1 << 20  # bytes of a long name or PAX record


class Member(NamedTuple):
    """One regular file in a tar: its bytes are `size` ones from `offset` on."""

    name: str
    offset: int
    size: int


def tar_members(path: Path) -> Iterator[Member]:
    """The regular files of the tar at `path` in order.

    Raises `DataError` on an empty, compressed, foreign, truncated or damaged file.
    """
    try:
        with path.open("rb", buffering=0) as file:
            yield from _walk(path, file.fileno(), os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _walk(path: Path, fd: int, total: int) -> Iterator[Member]:
    _check_kind(path, os.pread(fd, 2, 0), total)
    offset = 0
    extended: dict[str, str] = {}
    while offset < total:
        header = os.pread(fd, BLOCK, offset)
        if header == _END:
            return
        _check_header(path, header, offset)
        kind, data = header[156:157], offset + BLOCK
        size = 0 if kind in _WITHOUT_DATA else _size(path, header, extended, offset)
        end = data + -(-size // BLOCK) * BLOCK  # members are filled up to whole blocks
        if end > total:
            _fail(path, offset, f"its member needs {size:,} bytes, the file ends {end - total:,} before its end")
        offset = end
        if kind in (_LONG_NAME, _PAX):
            if size > _MAX_EXTENSION:
                _fail(path, data, f"a member name of {size:,} bytes")
            extended |= _extension(path, kind, os.pread(fd, size, data), data)
            continue
        if kind in _REGULAR:
            yield Member(extended.get("path") or _name(header), data, size)
        if kind not in (_LONG_LINK, _PAX_GLOBAL):
            extended = {}
    log.warning("%s has no end mark: it may have been cut between two members", path)


def _check_kind(path: Path, start: bytes, total: int) -> None:
    if total == 0:
        raise DataError(f"{path} is empty (0 bytes); copy it again or remove it")
    if start == b"\x1f\x8b":
        raise DataError(f"{path} is compressed with gzip (byte 0); unpack it with gunzip, samples are read by position")


def _check_header(path: Path, header: bytes, offset: int) -> None:
    if len(header) < BLOCK:
        _fail(path, offset, f"the file ends inside a header ({len(header)} of {BLOCK} bytes)")
    stored = _octal(header[148:156])
    # The field itself counts as eight spaces.
    if stored != sum(header) - sum(header[148:156]) + 8 * 0x20:
        if offset == 0:
            raise DataError(f"{path} is not a tar file (no tar header at byte 0)")
        _fail(path, offset, "the checksum of the header is wrong")


def _octal(field: bytes) -> int | None:
    try:
        return int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        return None


def _size(path: Path, header: bytes, extended: dict[str, str], offset: int) -> int:
    field = header[124:136]
    if "size" in extended:
        size = int(extended["size"]) if extended["size"].isdecimal() else None
    elif field[0] == 0x80:  # GNU: a binary number, for members of 8 GiB and more
        size = int.from_bytes(field[1:], "big")
    else:
        size = _octal(field)
    if size is None or size < 0:
        _fail(path, offset, "the size of a member is not a number")
    return size


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")


def _extension(path: Path, kind: bytes, data: bytes, offset: int) -> dict[str, str]:
    """What a long-name or PAX record says about the next member."""
    if kind == _LONG_NAME:
        return {"path": _text(data)}
    found, start = {}, 0
    while start < len(data):
        length, _, _ = data[start : start + 12].partition(b" ")
        record = data[start : start + int(length)] if length.isdigit() else b""
        key, equals, value = record[len(length) + 1 :].partition(b"=")
        if not equals or not record.endswith(b"\n"):
            _fail(path, offset + start, "a damaged PAX record")
        found[key.decode("utf-8", "replace")] = value[:-1].decode("utf-8", "replace")
        start += len(record)
    return found


def _fail(path: Path, offset: int, what: str) -> NoReturn:
    raise DataError(f"{path} is damaged at byte {offset:,}: {what}; copy it again or remove it")
