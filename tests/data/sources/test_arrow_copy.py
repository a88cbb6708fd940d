from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from limoe.data.sources.arrow_copy import open_copy, write_copy


def rows(count: int, *, image: Any = b"x") -> list[dict[str, Any]]:
    return [
        {"key": f"k{n}", "image": image, "path": None, "captions": [f"c{n}", "d"], "labels": [("n", str(n))]}
        for n in range(count)
    ]


def test_rows_come_back_by_position_with_the_note(tmp_path: Path) -> None:
    path, seen = tmp_path / "a.arrow", []
    write_copy(path, (seen.append(row["key"]) or row for row in rows(2500)), note=lambda: {"last": seen[-1]})
    copy = open_copy(path)
    assert copy is not None
    assert copy.note == {"last": "k2499"}  # asked for when all rows were read
    assert copy.rows.num_rows == 2500
    assert [len(chunk) for chunk in copy.rows.column("key").chunks if len(chunk)] == [1024, 1024, 452]
    assert copy.rows.column("captions")[1024].as_py() == ["c1024", "d"]
    assert copy.rows.column("labels")[2499].as_py() == [("n", "2499")]


def test_no_rows_are_a_copy_too(tmp_path: Path) -> None:
    write_copy(tmp_path / "a.arrow", [], note=lambda: {"bad": {}})
    copy = open_copy(tmp_path / "a.arrow")
    assert (copy.rows.num_rows, copy.note) == (0, {"bad": {}})


def test_what_is_no_copy_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    assert open_copy(path) is None
    path.write_bytes(b"something else")
    assert open_copy(path) is None
    with pa.ipc.new_file(str(path), pa.schema({"a": pa.int32()})) as writer:  # an Arrow file without a note
        writer.write_batch(pa.RecordBatch.from_pylist([{"a": 1}]).cast(pa.schema({"a": pa.int32()})))
    assert open_copy(path) is None


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def broken() -> Iterator[Any]:
        yield from rows(3)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_copy(tmp_path / "a.arrow", broken(), note=lambda: {})
    assert list(tmp_path.iterdir()) == []
