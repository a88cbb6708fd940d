import pickle
from pathlib import Path

import numpy as np
import pytest

from limoe.data.bad_samples import BadSample
from limoe.data.shards import index as shard_index
from limoe.data.shards.index import RECORD, Located, ShardFacts, ShardIndex, Span, write_index
from limoe.errors import DataError

FACTS = ShardFacts(
    size=10240,
    mtime_ns=17,
    sha256="ab" * 32,
    damage="damaged at byte 3",
    bad=[["k", "no_caption", "no text"]],
    bad_counts={"no_caption": 30},
)
SAMPLES = [
    Located("first", Span(512, 600), Span(2048, 19), None),
    Located("图片", Span(1 << 40, (1 << 32) - 1), None, Span(4096, 0)),
    Located("x" * 300, Span(1, 2), Span(3, 4), Span(5, 6)),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_index(tmp_path / "a.index", facts=FACTS, samples=SAMPLES)
    return tmp_path / "a.index"


def test_what_was_written_is_read(path: Path) -> None:
    index = ShardIndex(path)
    assert [index[i] for i in range(len(index))] == SAMPLES
    assert index.facts == FACTS
    bad = index.facts.bad_samples("there.tar")
    assert (bad.counts, bad.first) == ({"no_caption": 30}, [BadSample("there.tar", "k", "no_caption", "no text")])


def test_an_index_is_mapped_and_small(path: Path) -> None:
    index = ShardIndex(path)
    assert isinstance(index._records, np.memmap)
    assert isinstance(index._keys, np.memmap)
    # 4 offsets of 8 bytes, 4 sizes of 4, a hash of 8: 56, and the key (5, 6 and 300 bytes).
    assert RECORD.itemsize + 8 == 56
    assert path.stat().st_size - index._start == 3 * 56 + 5 + 6 + 300


def test_hashes_tell_keys_apart(path: Path) -> None:
    hashes = ShardIndex(path).hashes
    assert hashes.dtype == np.uint64
    assert len(set(hashes.tolist())) == 3
    # blake2b with 8 bytes of "first", the first one the lowest.
    from hashlib import blake2b

    assert int(hashes[0]) == int.from_bytes(blake2b(b"first", digest_size=8).digest(), "little")


def test_a_shard_without_samples_has_an_index_too(tmp_path: Path) -> None:
    write_index(tmp_path / "b.index", facts=FACTS, samples=[])
    index = ShardIndex(tmp_path / "b.index")
    assert (len(index), len(index.hashes)) == (0, 0)


def test_every_flipped_byte_and_every_cut_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        with pytest.raises((ValueError, KeyError, TypeError)):
            ShardIndex(path)
    for cut in rng.integers(0, len(whole), 100):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="no index of this version"):
            ShardIndex(path)


def test_another_version_is_no_index(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_index, "VERSION", shard_index.VERSION + 1)
    with pytest.raises(ValueError, match="no index of this version"):
        ShardIndex(path)


def test_a_pickled_copy_maps_the_file_again(path: Path) -> None:
    copy = pickle.dumps(ShardIndex(path))
    assert len(copy) < 500  # no sample travels
    assert pickle.loads(copy)[2] == SAMPLES[2]
    other = ShardFacts(**(vars(FACTS) | {"sha256": "cd" * 32}))
    write_index(path, facts=other, samples=SAMPLES)
    with pytest.raises(DataError, match=r"a\.index was rewritten while it was in use"):
        pickle.loads(copy)
