"""No reader sees half a file, and a failed write leaves the old one."""

import os
from pathlib import Path

import pytest

from limoe.files import replaced, write_json, write_text


def test_half_a_file_is_never_seen(tmp_path: Path) -> None:
    path = tmp_path / "new" / "index"
    with replaced(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    with pytest.raises(OSError, match="full"), replaced(path) as file:
        file.write(b"tw")
        raise OSError("full")
    assert path.read_bytes() == b"one"
    assert [entry.name for entry in path.parent.iterdir()] == ["index"]


def test_others_may_read_it_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with replaced(tmp_path / "index") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "index").stat().st_mode & 0o777 == 0o644


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert (tmp_path / "a.json").read_text() == '{\n  "x": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_lone_surrogate_is_written_as_a_question_mark(tmp_path: Path) -> None:
    write_text(tmp_path / "page.html", "caf\u00e9 \ud800")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "caf\u00e9 ?"
