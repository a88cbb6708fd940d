"""Pairs in one memory-mapped Arrow file, read by position.

Memory does not grow with the table. The last batch of the file has no rows; its metadata is a note about all rows,
known only after they were read.
"""

import json
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from limoe.data.sources.table_files import BATCH, pa
from limoe.files import replaced

_NOTE = b"limoe"
# An image is stored either in `image` or in the file `path`.
SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "image": pa.binary(),
        "path": pa.string(),
        "captions": pa.list_(pa.string()),
        "labels": pa.map_(pa.string(), pa.string()),
    }
)


class ArrowCopy(NamedTuple):
    """All rows, memory-mapped, and the note about them. A pickled copy maps the file `path` again."""

    path: Path
    rows: pa.Table
    note: dict[str, Any]

    def __reduce__(self) -> tuple:
        return open_copy, (self.path,)


def write_copy(path: Path, rows: Iterable[dict[str, Any]], *, note: Callable[[], dict[str, Any]]) -> None:
    """Write `rows` in the columns of `SCHEMA`, then the result of `note`, called after the last row."""
    left = iter(rows)
    with replaced(path) as file, pa.ipc.new_file(file, SCHEMA) as writer:
        while batch := list(islice(left, BATCH)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, SCHEMA))
        writer.write_batch(pa.RecordBatch.from_pylist([], SCHEMA), custom_metadata={_NOTE: json.dumps(note())})


def open_copy(path: Path) -> ArrowCopy | None:
    """Open the copy at `path`; None if there is none that this version can read."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        _, note = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
        return ArrowCopy(path, reader.read_all(), json.loads(note[_NOTE]))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None
