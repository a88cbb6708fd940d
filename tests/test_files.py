"""No reader sees half a file, and a failed write leaves the old one; where caches lie."""

import os
from pathlib import Path

import pytest

from limoe.files import cache_path, replaced, stamp, write_json, write_text


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


@pytest.fixture(autouse=True)
def no_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMOE_CACHE_DIR", raising=False)


def test_beside_the_file_where_that_can_be_written(tmp_path: Path) -> None:
    assert cache_path(tmp_path / "a.tar", suffix=".index") == tmp_path / "a.tar.index"


def test_in_the_cache_folder_where_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMOE_CACHE_DIR", str(tmp_path / "cache"))
    one, other = (cache_path(tmp_path / folder / "a.tar", suffix=".index") for folder in ("x", "y"))
    assert one.parent == other.parent == tmp_path / "cache"
    assert one != other and one.name.startswith("a.tar.") and one.name.endswith(".index")


def test_in_the_home_folder_where_data_are_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "data").mkdir(mode=0o555)
    found = cache_path(tmp_path / "data" / "a.tar", suffix=".index")
    assert found.parent == tmp_path / "home" / ".cache" / "limoe"


def test_a_given_folder_is_always_used(tmp_path: Path) -> None:
    assert cache_path(tmp_path / "a.tar", suffix=".i", cache_dir=tmp_path / "c").parent == tmp_path / "c"


def test_a_stamp_is_size_and_time_of_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    os.utime(tmp_path / "a", ns=(1, 17))
    assert stamp(tmp_path / "a") == [5, 17]
