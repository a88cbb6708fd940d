"""Where caches lie."""

import os
from pathlib import Path

import pytest

from limoe.data.cache import cache_path, stamp


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
