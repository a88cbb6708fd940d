"""Rows of parquet, CSV and JSON lines files of any size, one at a time.

A row that cannot be read is yielded as `BadContent`; an unusable file raises `DataError` with its name. Parquet is read
by pyarrow, CSV is not: with one missing quote `pyarrow.csv` merges the rest of a file into one cell, without an error.
"""

import csv
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from limoe.data.bad_samples import BadContent
from limoe.data.text.captions import MAX_BYTES, read_fields
from limoe.errors import DataError, LimoeError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise LimoeError("tables need the package pyarrow: pip install pyarrow") from error

BATCH = 1024  # rows in memory at a time
Row = dict[str, Any]
Rows = Iterator[tuple[int, Row | BadContent]]  # number and content; in text files the number of the line, from 1


def read_rows(path: Path, names: Sequence[str]) -> Rows:
    """All rows of the file, in order, with (at least) the columns `names`."""
    read = _KINDS.get(path.suffix.lower())
    if read is None:
        raise DataError(f"{path} is no table by its name; it must end with one of {', '.join(_KINDS)}")
    try:
        yield from read(path, names)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:150]
        raise DataError(f"{path} cannot be read: {reason}; copy it again or remove it") from error


def _parquet(path: Path, names: Sequence[str]) -> Rows:
    with pq.ParquetFile(path) as file:
        require_columns(path, names, there=file.schema_arrow.names)
        number = 0
        for group in range(file.num_row_groups):  # one by one: pyarrow keeps all row groups of a call in memory
            for batch in file.iter_batches(BATCH, row_groups=[group], columns=list(names)):
                for place in range(batch.num_rows):
                    yield number, _parquet_row(batch, place)
                    number += 1


def _parquet_row(batch: pa.RecordBatch, place: int) -> Row | BadContent:
    try:
        return batch.slice(place, 1).to_pylist()[0]
    except UnicodeDecodeError as error:  # parquet does not check the encoding
        return BadContent(f"a text that is not UTF-8 (byte {error.start:,})", kind="bad_text")


def _json_lines(path: Path, names: Sequence[str]) -> Rows:
    seen: set[str] = set()
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = read_fields(line)
        except BadContent as error:
            yield number, error
            continue
        seen |= row.keys()
        yield number, row
    require_columns(path, names, there=sorted(seen))


def _csv(path: Path, names: Sequence[str]) -> Rows:
    """Rows of a CSV file, which may span lines. If such a row has an error (a missing quote), only its first line is
    bad and the others are read again; if its lines are valid both as one row and as separate rows, all are bad.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    lines = _CsvLines(path)
    header = _header(path, csv.reader(lines, delimiter=delimiter, strict=True))
    require_columns(path, names, there=header)
    while True:
        lines.taken.clear()
        first = lines.number + 1
        try:
            values = next(csv.reader(lines, delimiter=delimiter, strict=True), None)
        except csv.Error as error:
            lines.give_back()
            yield first, BadContent(f"line {first}: {error}", kind="bad_row")
            continue
        if values is None:
            return
        if values and len(values) != len(header):
            lines.give_back()
            reason = f"line {first} has {len(values)} fields, the header {len(header)}"
            yield first, BadContent(reason, kind="bad_row")
        elif len(lines.taken) > 1 and all(_fields(line, delimiter) == len(header) for line in lines.taken[1:]):
            reason = f"lines {first} to {lines.number} are one row by their quotes, and rows of their own without"
            for number in range(first, lines.number + 1):
                yield number, BadContent(f"{reason}: is a quote missing?", kind="bad_row")
        elif values:
            yield lines.number, dict(zip(header, values, strict=True))


class _CsvLines:
    """The lines of a file for `csv.reader`. `taken`: those read since the caller last cleared the list.

    Bytes that are not UTF-8 become lone surrogates, which the rules for captions refuse row by row.
    """

    def __init__(self, path: Path) -> None:
        self._lines = (line.decode("utf-8", "surrogateescape") for line in _lines(path))
        self._ahead: deque[str] = deque()
        self.taken: list[str] = []
        self.number = 0  # of the last line

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._ahead.popleft() if self._ahead else next(self._lines)
        self.number += 1
        self.taken.append(line)
        return line.removeprefix("\ufeff") if self.number == 1 else line

    def give_back(self) -> None:
        """Put back all taken lines but the first, to be read again."""
        self._ahead.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1


def _fields(line: str, delimiter: str) -> int:
    return len(next(csv.reader([line], delimiter=delimiter), []))


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        header = next(reader)
    except csv.Error as error:
        raise DataError(f"{path}: its first line is no header: {error}") from error
    if len(set(header)) < len(header):
        raise DataError(f"{path}: the columns of its header must differ, got {', '.join(header):.200}")
    return header


def _lines(path: Path) -> Iterator[bytes]:
    number = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_BYTES + 1):
            number += 1
            if len(line) > MAX_BYTES:
                raise DataError(f"{path}: line {number:,} has more than {MAX_BYTES:,} bytes; fix or remove it")
            yield line
    if number == 0:
        raise DataError(f"{path} is empty; a table has at least a header, JSON lines one object")


def require_columns(place: object, names: Sequence[str], *, there: Sequence[str]) -> None:
    missing = [name for name in names if name not in there]
    if missing:
        raise DataError(f"{place} has no column {', '.join(missing)}; there: {', '.join(there) or 'none'}")


_KINDS: dict[str, Callable[[Path, Sequence[str]], Rows]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _json_lines,
}
