"""Damaged tables and streamed shards: nothing but our own errors comes out. -s prints what docs/data.md tells."""

import time
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limoe.data.bad_samples import BadSample, BadSampleError
from limoe.errors import DataError
from tests.helpers.numbered_shards import png, sample, stream, write_tar
from tests.helpers.tables import table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CASES = 1500


def damaged(data: bytes, rng: Random) -> bytes:
    """Up to six bytes changed, stretches cut out or put in; half of the places lie near the end."""
    result = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        near_end = max(0, len(result) - 600)
        place = rng.randrange(near_end if rng.random() < 0.5 else 0, len(result))
        action = rng.random()
        if action < 0.6:
            result[place] = rng.randrange(256)
        elif action < 0.8:
            del result[place : place + rng.randint(1, 40)]
        else:
            result[place:place] = rng.randbytes(rng.randint(1, 20))
    return bytes(result)


def whole_tables(folder: Path) -> dict[str, bytes]:
    rows = [{"key": f"k{n}", "image": png(n), "caption": f"caption {n}"} for n in range(30)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "whole.parquet")
    csv = "key,image,caption\n" + "".join(f'k{n},x.png,"a caption, {n}"\n' for n in range(30))
    lines = "".join(f'{{"key": "k{n}", "image": "x.png", "caption": ["a \\u00e9", "b {n}"]}}\n' for n in range(30))
    return {"parquet": (folder / "whole.parquet").read_bytes(), "csv": csv.encode(), "jsonl": lines.encode()}


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_damaged_tables(tmp_path: Path, kind: str) -> None:
    whole = whole_tables(tmp_path)[kind]
    rng = Random(kind)
    counts: Counter[str] = Counter()
    for number in range(CASES):
        path = tmp_path / f"{number}.{kind}"
        path.write_bytes(damaged(whole, rng))
        try:
            data = table(str(path), key_column="key", cache_dir=str(tmp_path / "cache"))
        except DataError as error:
            assert "\n" not in str(error)
            counts["refused"] += 1
            continue
        counts["read"] += 1
        assert len(list(data.captions())) >= len(data)
        for index in range(len(data)):
            try:
                assert data[index].image.mode == "RGB"
            except BadSampleError:
                counts["bad images"] += 1
        data.copy.unlink()
        path.unlink()
    print(f"\n{CASES} damaged {kind} tables: {dict(counts)}")
    assert counts["refused"] + counts["read"] == CASES


def test_damaged_streams(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "whole.tar", [member for n in range(8) for member in sample(n)])
    whole = path.read_bytes()
    rng = Random(0)
    counts: Counter[str] = Counter()
    for _ in range(CASES):
        path.write_bytes(damaged(whole, rng))
        try:
            found = list(islice(stream(str(path)).pairs(rng=Random(0), part=0, parts=1), 12))
        except DataError as error:
            assert "\n" not in str(error)
            counts["refused"] += 1
            continue
        counts["read"] += 1
        counts["bad samples"] += sum(isinstance(one, BadSample) for one in found)
    print(f"\n{CASES} damaged shards, streamed: {dict(counts)}")
    assert counts["refused"] + counts["read"] == CASES


def anonymous_memory() -> int:
    """Memory of the process without mapped files, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) // 1024


def write_rows(path: Path, count: int) -> None:
    noise = np.random.default_rng(0)
    blocks = [noise.bytes(1700) for _ in range(100)]
    schema = pa.schema({"key": pa.string(), "image": pa.binary(), "caption": pa.string()})
    with pq.ParquetWriter(path, schema, use_dictionary=False, compression="none") as writer:
        for start in range(0, count, 10_000):
            rows = range(start, start + 10_000)
            columns = [[f"k{n}" for n in rows], [blocks[n % 100] for n in rows], [f"caption {n}" for n in rows]]
            writer.write_table(pa.table(columns, schema=schema))


@pytest.mark.parametrize("count", [50_000, 200_000])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, count: int) -> None:
    write_rows(tmp_path / "t.parquet", count)
    before = anonymous_memory()
    start = time.perf_counter()
    data = table(str(tmp_path / "t.parquet"), key_column="key")
    copied = time.perf_counter()
    again = table(str(tmp_path / "t.parquet"), key_column="key")
    opened = time.perf_counter()
    reached = anonymous_memory()
    assert len(data) == len(again) == count
    order = np.random.default_rng(1).permutation(count)[:20_000].tolist()
    reading = time.perf_counter()
    assert sum(len(again.describe(index).captions) + len(again.image(index)) for index in order) == 20_000 * 1701
    rate = 20_000 / (time.perf_counter() - reading)
    size = (tmp_path / "t.parquet").stat().st_size >> 20
    print(f"\n{count} rows, {size} MiB: copied in {copied - start:.1f} s, opened in {opened - copied:.3f} s")
    print(f"memory {before} -> {reached} MiB, {rate:.0f} undecoded pairs/s")
    assert reached - before < 150  # a Python list of the 200,000 images would be 340 MiB
