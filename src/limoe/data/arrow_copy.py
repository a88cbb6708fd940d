"""Pairs in one Arrow file that is read by position through the memory map: a table of any size costs no memory.

The last batch of the file has no rows; it carries a note about the whole (`write_copy` cannot know it before).
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from limoe.errors import ConfigError
from limoe.files import replaced

try:
    import pyarrow as pa
except ImportError as error:
    raise ConfigError("tables need the package pyarrow: pip install 'limoe[data]'") from error

_BATCH_ROWS, _BATCH_BYTES = 1024, 1 << 26  # what is collected at most before it is written
_NOTE = b"limoe"
# A picture is either in `image` or in the file `path`.
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
    """All rows, mapped into memory, and what was noted about them."""

    rows: pa.Table
    note: dict[str, Any]


def write_copy(path: Path, rows: Iterable[dict[str, Any]], *, note: Callable[[pa.ChunkedArray], dict]) -> None:
    """Write `rows` in the columns of `SCHEMA`. `note` is asked at the end, with the keys of all rows."""
    keys = []
    with replaced(path) as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for batch in _batches(rows):
            writer.write_batch(batch)
            keys.append(batch.column("key"))
        text = json.dumps(note(pa.chunked_array(keys, pa.string())))
        writer.write_batch(pa.RecordBatch.from_pylist([], SCHEMA), custom_metadata={_NOTE: text})


def open_copy(path: Path) -> ArrowCopy | None:
    """None if there is no copy, or none that this version can read."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        _, note = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
        return ArrowCopy(reader.read_all(), json.loads(note[_NOTE]))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None


def repeated(keys: pa.ChunkedArray) -> np.ndarray:
    """Positions, ascending, of all keys that occurred before."""
    encoded = keys.cast(pa.large_string()).dictionary_encode()
    codes = np.concatenate([np.empty(0, np.int64), *(chunk.indices.to_numpy() for chunk in encoded.chunks)])
    _, first = np.unique(codes, return_index=True)
    return np.setdiff1d(np.arange(len(codes)), first)


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row["image"] or b"")
        if len(batch) == _BATCH_ROWS or size >= _BATCH_BYTES:
            yield pa.RecordBatch.from_pylist(batch, SCHEMA)
            batch, size = [], 0
    if batch:
        yield pa.RecordBatch.from_pylist(batch, SCHEMA)
