import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from limoe.data.shards import indexed_shards
from limoe.data.shards.indexed_shards import index_shards, repeated_keys
from limoe.errors import DataError
from tests.helpers.shards import samples, write_tar


@pytest.fixture(autouse=True)
def indexes_beside_the_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMOE_CACHE_DIR")


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "train-0.tar", samples("a", "b"))


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The shards that were walked over, in order."""
    walked, real = [], indexed_shards.read_contents
    monkeypatch.setattr(indexed_shards, "read_contents", lambda *a: walked.append(a[0]) or real(*a))
    return walked


def keys(*paths: Path, cache_dir: str | None = None, verify: str = "changed") -> list[str]:
    indexes = index_shards(paths, cache_dir=cache_dir, verify=verify)
    return [index[i].key for index in indexes for i in range(len(index))]


def test_an_index_lies_beside_its_shard_and_is_built_once(shard: Path, walks: list[Any]) -> None:
    assert keys(shard) == keys(shard) == ["a", "b"]
    assert walks == [shard]
    assert sorted(path.name for path in shard.parent.iterdir()) == ["train-0.tar", "train-0.tar.index"]


def test_the_facts_are_those_of_the_file(shard: Path) -> None:
    (found,) = index_shards([shard], cache_dir=None, verify="changed")
    facts, stat = found.facts, shard.stat()
    assert (facts.size, facts.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert facts.sha256 == sha256(shard.read_bytes()).hexdigest()


def test_shards_keep_their_order_whichever_is_ready_first(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"t-{i}.tar", samples(*(f"{i}-{j}" for j in range(20 - i)))) for i in range(20)]
    assert keys(*paths) == [f"{i}-{j}" for i in range(20) for j in range(20 - i)]


def test_a_shard_with_a_new_time_but_the_same_bytes_is_looked_at_once(
    shard: Path, walks: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    keys(shard)
    os.utime(shard, ns=(1, 1))
    assert keys(shard) == keys(shard) == ["a", "b"]
    assert len(walks) == 2
    assert not caplog.messages


def test_a_shard_with_other_bytes_is_indexed_again_and_told(
    shard: Path, walks: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    keys(shard)
    write_tar(shard, samples("c", "d", "e"))
    os.utime(shard, ns=(1, 1))
    assert keys(shard) == ["c", "d", "e"]
    assert caplog.messages == [f"{shard} has changed since it was indexed; indexed again"]
    assert keys(shard) == ["c", "d", "e"]
    assert len(walks) == 2


def test_other_bytes_under_the_same_size_and_time_are_found_by_full(
    shard: Path, walks: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    keys(shard)
    stat = shard.stat()
    write_tar(shard, samples("c", "d"))
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert keys(shard) == ["a", "b"]
    assert keys(shard, verify="full") == ["c", "d"]
    assert caplog.messages == [f"{shard} has changed since it was indexed; indexed again"]
    assert keys(shard, verify="full") == ["c", "d"]
    assert len(walks) == 3
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:8] + b"\7" + data[9:]])
def test_a_damaged_or_foreign_index_is_built_again_without_a_word(
    shard: Path, caplog: pytest.LogCaptureFixture, damage: Callable[..., Any]
) -> None:
    keys(shard)
    index = shard.with_name("train-0.tar.index")
    index.write_bytes(damage(index.read_bytes()))
    assert keys(shard) == ["a", "b"]
    assert not caplog.messages


def test_an_index_lies_in_the_cache_folder_where_there_is_one(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMOE_CACHE_DIR", str(tmp_path / "cache"))
    assert keys(shard) == ["a", "b"]
    assert [path.name for path in shard.parent.glob("*.index")] == []
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_an_index_that_cannot_be_written_says_what_to_set(shard: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match=r"file.*: .*; `cache_dir` says where indexes are kept"):
        keys(shard, cache_dir=str(tmp_path / "file"))


def test_one_file_that_is_no_tar_ends_all(shard: Path, tmp_path: Path) -> None:
    other = tmp_path / "train-1.tar"
    other.write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match=r"train-1\.tar is not a tar file"):
        keys(shard, other)


def repeated(*paths: Path) -> list[int]:
    return repeated_keys(index_shards(paths, cache_dir=None, verify="changed"))


def test_repeated_keys_are_found_over_all_shards(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{i}.tar", samples(*keys)) for i, keys in enumerate(["abc", "", "dbe", "ab"])]
    assert repeated(*paths) == [4, 6, 7]  # a b c / - / d B e / A B
    assert repeated(*paths[:2]) == []


def test_two_keys_with_one_hash_are_two_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limoe.data.shards.index._key_hash", lambda key: 7)
    paths = [write_tar(tmp_path / f"{i}.tar", samples(*keys)) for i, keys in enumerate(["ab", "cb"])]
    assert repeated(*paths) == [3]
