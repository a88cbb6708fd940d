"""Mutated shards: whatever the bytes are, samples come out or an error of ours does, soon, and without much memory."""

import gzip
import resource
import signal
import tarfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limoe.data.bad_samples import BadSampleError
from limoe.data.shards.tar_shards import TarShards
from limoe.errors import LimoeError
from tests.helpers.shards import sample, tar_bytes

BLOCK = 512
SECONDS = 30  # for one shard of 30 kB: what takes longer counts as a hang
# Name, mode, size, time, checksum, type, link, magic, prefix of a tar header.
FIELDS = [(0, 100), (100, 8), (124, 12), (136, 12), (148, 8), (156, 1), (157, 100), (257, 8), (345, 155)]


def generated() -> bytes:
    """Several formats of header in one file: long names as PAX records, a GNU long name, texts, json."""
    files = [*sample("a", fields={"captions": ["one", "two"], "label": "x"}), *sample("x" * 150), *sample("图片")]
    end = 2 * BLOCK
    pax = tar_bytes(files, tarfile.PAX_FORMAT).rstrip(b"\0")
    pax += bytes(-len(pax) % BLOCK)
    return pax + tar_bytes(sample("y" * 200), tarfile.GNU_FORMAT)[:-end]


def flips(data: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, len(data), rng.integers(1, 20)):
        data[place] = rng.integers(0, 256)


def cut(data: bytearray, rng: np.random.Generator) -> None:
    del data[rng.integers(0, len(data)) :]


def insertion(data: bytearray, rng: np.random.Generator) -> None:
    place = rng.integers(0, len(data))
    data[place:place] = rng.bytes(rng.choice([1, 7, BLOCK, 3 * BLOCK]))


def deletion(data: bytearray, rng: np.random.Generator) -> None:
    start = rng.integers(0, len(data))
    del data[start : start + rng.choice([1, 100, BLOCK, 5 * BLOCK])]


def moved_blocks(data: bytearray, rng: np.random.Generator) -> None:
    blocks = [bytes(data[i : i + BLOCK]) for i in range(0, len(data), BLOCK)]
    for _ in range(rng.integers(1, 4)):
        blocks.insert(rng.integers(0, len(blocks)), blocks[rng.integers(0, len(blocks))])
    data[:] = b"".join(blocks)


def header_field(data: bytearray, rng: np.random.Generator) -> None:
    """A field of a real header gets another value, and the header its right checksum: so it is believed."""
    headers = [i for i in range(0, len(data) - BLOCK, BLOCK) if data[i + 257 : i + 262] == b"ustar"]
    start = int(rng.choice(headers))
    offset, length = FIELDS[rng.integers(0, len(FIELDS))]
    values = [rng.bytes(length), b"7" * length, b"\0" * length, b"\xff" * length, b"\x80" + b"\0" * (length - 1)]
    values += [b"-1", b"99999999999", bytes([rng.integers(48, 122)])]
    value = values[rng.integers(0, len(values))][:length]
    data[start + offset : start + offset + len(value)] = value
    if offset != 148:
        header = data[start : start + BLOCK]
        data[start + 148 : start + 156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)


def gzipped(data: bytearray, rng: np.random.Generator) -> None:
    data[:] = gzip.compress(bytes(data), 1)
    (flips, cut, insertion)[rng.integers(0, 3)](data, rng)


MUTATIONS = (flips, cut, insertion, deletion, moved_blocks, header_field, header_field, gzipped)


@contextmanager
def alarm(what: str) -> Any:
    def ring(*_: Any) -> None:
        raise RuntimeError(f"no end within {SECONDS} s: {what}")

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def read_everything(folder: Path) -> int | None:
    """How many samples came out; None if the whole shard was refused."""
    try:
        data = TarShards(root=str(folder), split="train", verify="full")  # written too fast for the clock of files
    except LimoeError as error:
        assert "train-" in str(error)
        return None
    good = 0
    for i in range(len(data)):
        try:
            assert data[i].captions
            good += 1
        except BadSampleError:
            pass
    assert all(caption for caption in data.captions())
    return good


def fuzz(folder: Path, whole: bytes, *, rounds: int) -> tuple[int, int, int]:
    """Counts of refused shards, of shards with all samples, and of shards with some of them."""
    refused = complete = partial = 0
    (folder / "train-0.tar").write_bytes(whole)
    size = read_everything(folder)
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        data = bytearray(whole)
        mutation = MUTATIONS[rng.integers(0, len(MUTATIONS))]
        mutation(data, rng)
        (folder / "train-0.tar").write_bytes(data)
        with alarm(f"{mutation.__name__}, seed {seed}"):
            found = read_everything(folder)
        refused += found is None
        complete += found is not None and found >= size
        partial += found is not None and found < size
    return refused, complete, partial


@pytest.fixture(params=["generated", "good.tar"])
def whole(request: Any) -> bytes:
    if request.param == "generated":
        return generated()
    return (request.getfixturevalue("shared") / "data" / "corrupt" / "tar" / request.param).read_bytes()


def test_mutated_shards(whole: bytes, tmp_path: Path) -> None:
    refused, complete, partial = fuzz(tmp_path, whole, rounds=75)
    assert min(refused, complete, partial) > 3  # the mutations do reach all three ends


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_mutated_shards(whole: Any, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = fuzz(tmp_path, whole, rounds=5000)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"refused, complete, partial: {counts}; peak memory grew by {grown / 1024:.0f} MiB")
    assert min(counts) > 100
    assert grown < 300 * 1024  # KiB
