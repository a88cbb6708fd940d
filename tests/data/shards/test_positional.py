import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from limoe.data.shards import tar_shards
from limoe.data.shards.tar_shards import PositionalFiles
from limoe.errors import DataError


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{i}" for i in range(5)]
    for i, path in enumerate(found):
        path.write_bytes(b"%d23456789" % i)
    return found


def test_bytes_are_read_by_position(paths: list[Path]) -> None:
    files = PositionalFiles(paths)
    assert [files.read(i, offset=0, size=3) for i in (0, 3, 0)] == [b"023", b"323", b"023"]
    assert files.read(1, offset=8, size=1) == b"9"
    assert files.read(1, offset=9, size=0) == b""


def test_only_so_many_files_stay_open(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open
    opened: dict[Any, Any] = {}
    monkeypatch.setattr(tar_shards, "MAX_OPEN", 2)
    monkeypatch.setattr(tar_shards.os, "open", lambda path, flags: opened.setdefault(path, real(path, flags)))
    files = PositionalFiles(paths)
    for i in (0, 1, 0, 2, 0):
        assert files.read(i, offset=0, size=1) == b"%d" % i
    assert list(opened) == paths[:3]
    os.fstat(opened[paths[0]])
    with pytest.raises(OSError, match="Bad file descriptor"):  # 1 was not used for longest
        os.fstat(opened[paths[1]])
    monkeypatch.undo()
    assert files.read(1, offset=0, size=1) == b"1"


def test_a_pickled_copy_opens_its_own(paths: list[Path]) -> None:
    files = PositionalFiles(paths)
    files.read(0, offset=0, size=1)
    copy = pickle.loads(pickle.dumps(files))
    assert copy._opened.cache_info().currsize == 0
    assert copy.read(0, offset=0, size=2) == b"02"


def test_descriptors_are_closed_with_their_owner(paths: list[Path]) -> None:
    files = PositionalFiles(paths)
    files.read(0, offset=0, size=1)
    descriptor = files._opened(paths[0]).descriptor
    del files
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_what_is_gone_or_shorter_is_named(paths: list[Path]) -> None:
    files = PositionalFiles(paths)
    with pytest.raises(DataError, match=r"/1 became shorter while it was in use: no byte 9"):
        files.read(1, offset=5, size=5)
    paths[2].unlink()
    with pytest.raises(DataError, match=r"/2 cannot be read any more: No such file"):
        files.read(2, offset=0, size=1)


@pytest.mark.parametrize(("failures", "tries"), [(2, 3), (9, 4)])
def test_a_drive_that_fails_is_asked_again(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, failures: int, tries: int
) -> None:
    real = os.pread
    asked: list[Any] = []
    waited: list[float] = []

    def failing(*arguments: Any) -> Any:
        asked.append(arguments)
        if len(asked) <= failures:
            raise OSError(5, "Input/output error")
        return real(*arguments)

    monkeypatch.setattr(tar_shards.os, "pread", failing)
    monkeypatch.setattr(tar_shards.time, "sleep", waited.append)
    files = PositionalFiles(paths)
    if failures < 4:
        assert files.read(0, offset=0, size=1) == b"0"
    else:
        with pytest.raises(DataError, match=r"/0 cannot be read any more: Input/output error"):
            files.read(0, offset=0, size=1)
    assert len(asked) == tries
    assert waited == [0.1, 1.0, 5.0][: tries - 1]
