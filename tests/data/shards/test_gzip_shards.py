import gzip
from pathlib import Path

import numpy as np
import pytest

from limoe.data.shards import gzip_shards
from limoe.data.shards.gzip_shards import is_gzip, unpack
from limoe.errors import DataError

CONTENT = np.random.default_rng(0).bytes(3_000_000)  # does not shrink: three chunks


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(CONTENT, 1))
    return path


def test_what_comes_out_is_what_went_in(packed: Path, tmp_path: Path) -> None:
    assert unpack(packed, to=tmp_path / "out") is None
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_several_gzip_files_in_one(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"one") + gzip.compress(b"two"))
    assert unpack(path, to=tmp_path / "out") is None
    assert (tmp_path / "out").read_bytes() == b"onetwo"


def test_of_a_cut_file_comes_out_what_is_there(packed: Path, tmp_path: Path) -> None:
    """The content does not shrink, so half of the file holds about half of it."""
    data = packed.read_bytes()
    packed.write_bytes(data[: len(data) // 2])
    damage = unpack(packed, to=tmp_path / "out")
    out = (tmp_path / "out").read_bytes()
    assert CONTENT.startswith(out)
    assert 1_300_000 < len(out) < 1_500_001
    assert damage.startswith(f"its gzip data end or break after {len(out):,} unpacked bytes (")


def test_a_damaged_file_is_told(packed: Path, tmp_path: Path) -> None:
    data = bytearray(packed.read_bytes())
    data[-6] ^= 1  # in the checksum of the content
    packed.write_bytes(data)
    assert "CRC check failed" in unpack(packed, to=tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_a_bomb_is_stopped_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 4,000,000 zeros take about 4 kB; 20 times that are about 80 kB.
    monkeypatch.setattr(gzip_shards, "MIN_LIMIT", 0)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(4_000_000)))
    with pytest.raises(DataError, match=r"bomb\.gz unpacks to more than \d+,\d+ bytes; unpack it with gunzip"):
        unpack(path, to=tmp_path / "out")
    assert list(tmp_path.iterdir()) == [path]


def test_gzip_is_told_by_content(packed: Path, tmp_path: Path) -> None:
    assert is_gzip(packed)
    (tmp_path / "b.gz").write_bytes(b"")
    assert not is_gzip(tmp_path / "b.gz")
