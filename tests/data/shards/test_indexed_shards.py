import gzip
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limoe.data.shards import indexed_shards
from limoe.data.shards.indexed_shards import index_shards, repeated_keys
from limoe.errors import DataError
from tests.helpers.shards import samples, tar_bytes, write_tar


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
    monkeypatch.setattr(indexed_shards, "read_contents", lambda *a, **k: walked.append(k["shard"]) or real(*a, **k))
    return walked


def keys(*paths: Path, cache_dir: str | None = None, verify: str = "changed") -> list[str]:
    indexes = [shard.index for shard in index_shards(paths, cache_dir=cache_dir, verify=verify)]
    return [index[i].key for index in indexes for i in range(len(index))]


def test_an_index_lies_beside_its_shard_and_is_built_once(shard: Path, walks: list[Any]) -> None:
    assert keys(shard) == keys(shard) == ["a", "b"]
    assert walks == [shard]
    assert sorted(path.name for path in shard.parent.iterdir()) == ["train-0.tar", "train-0.tar.index"]


def test_the_facts_are_those_of_the_file(shard: Path) -> None:
    (found,) = index_shards([shard], cache_dir=None, verify="changed")
    facts, stat = found.index.facts, shard.stat()
    assert (facts.size, facts.mtime_ns, facts.unpacked) == (stat.st_size, stat.st_mtime_ns, None)
    assert facts.sha256 == sha256(shard.read_bytes()).hexdigest()
    assert found.data == shard


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


def test_a_gzip_shard_is_unpacked_once(tmp_path: Path, walks: list[Any]) -> None:
    shard = tmp_path / "train-0.tar.gz"
    shard.write_bytes(gzip.compress(tar_bytes(samples("a", "b"))))
    cache = str(tmp_path / "cache")
    (found,) = index_shards([shard], cache_dir=cache, verify="changed")
    assert found.data.read_bytes() == tar_bytes(samples("a", "b"))
    assert found.index.facts.sha256 == sha256(shard.read_bytes()).hexdigest()
    assert found.index.facts.unpacked == found.data.stat().st_size
    assert keys(shard, cache_dir=cache) == ["a", "b"]
    assert len(walks) == 1
    found.data.unlink()
    assert keys(shard, cache_dir=cache) == ["a", "b"]
    assert found.data.is_file()


def test_of_a_cut_gzip_shard_the_whole_samples_stay(tmp_path: Path) -> None:
    """Images that do not shrink: 4 samples of 6 blocks; three quarters of the file hold the first two at least."""
    rng = np.random.default_rng(0)
    files = [(f"{key}.{suffix}", rng.bytes(2000)) for key in "abcd" for suffix in ("png", "cls")]
    files = [file for i in range(4) for file in (files[2 * i], (f"{'abcd'[i]}.txt", b"text"), files[2 * i + 1])]
    shard = tmp_path / "train-0.tar.gz"
    whole = gzip.compress(tar_bytes(files))
    shard.write_bytes(whole[: len(whole) * 3 // 4])
    (found,) = index_shards([shard], cache_dir=None, verify="changed")
    assert [found.index[i].key for i in range(len(found.index))] in (["a", "b"], ["a", "b", "c"])
    assert found.index.facts.damage.startswith("its gzip data end or break after")
    assert found.index.facts.sha256 == sha256(shard.read_bytes()).hexdigest()


def test_one_file_that_is_no_tar_ends_all(shard: Path, tmp_path: Path) -> None:
    other = tmp_path / "train-1.tar"
    other.write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match=r"train-1\.tar is not a tar file"):
        keys(shard, other)


def repeated(*paths: Path) -> list[int]:
    return repeated_keys([shard.index for shard in index_shards(paths, cache_dir=None, verify="changed")])


def test_repeated_keys_are_found_over_all_shards(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{i}.tar", samples(*keys)) for i, keys in enumerate(["abc", "", "dbe", "ab"])]
    assert repeated(*paths) == [4, 6, 7]  # a b c / - / d B e / A B
    assert repeated(*paths[:2]) == []


def test_two_keys_with_one_hash_are_two_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limoe.data.shards.index._key_hash", lambda key: 7)
    paths = [write_tar(tmp_path / f"{i}.tar", samples(*keys)) for i, keys in enumerate(["ab", "cb"])]
    assert repeated(*paths) == [3]
