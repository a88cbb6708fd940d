"""The measurements of reading run, and count what they say they count. No test looks at a time."""

import gc
import json
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from limoe.types import Batch
from tests.helpers.commands import program
from tests.helpers.paths import REPO


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO))


@pytest.mark.slow
def test_data_writes_figures_of_every_source(tmp_path: Path) -> None:
    size = ["--pairs", "60", "--shards", "3", "--image-size", "16", "--batch-size", "8", "--batches", "2"]
    words = [*size, "--rounds", "1", "--steps", "0", "--workers", "0", "--sources", "tar", "synthetic"]
    words += ["--threads", "1", "--out", str(tmp_path), "--folder", str(tmp_path)]
    program("benchmarks.data", *words, cwd=REPO)
    result = json.loads((tmp_path / "data.json").read_text())
    assert [row["source"] for row in result["speed"]] == ["tar", "synthetic"]
    assert [(row["index"], row["pairs"]) for row in result["opening"]] == [
        ("built", 20), ("read", 20), ("built", 60), ("read", 60)
    ]  # fmt: skip
    assert "| tar | 0 | " in (tmp_path / "data.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"data.json", "data.md"}  # the pairs are gone


def test_every_indexed_source_gives_the_batches_it_is_asked_for(tmp_path: Path) -> None:
    """24 pairs: 3 batches of 8, of which the first does not count."""
    from benchmarks.data_sets import pool, write_shards
    from benchmarks.data_sources import INDEXED, Setting, opened
    from benchmarks.data_speed import timed_reading

    content = pool(image_size=16)[:10]
    write_shards(tmp_path / "shards", content, size=24, shards=2)
    setting = Setting(tmp_path, content, tmp_path / "shards", 24, 16, 8)
    for name in INDEXED:
        batches = opened(name, setting)
        assert [timed_reading(batches(0), count=2).pairs for _ in range(2)] == [16, 16]


def test_plain_webdataset_is_read_with_the_same_functions(tmp_path: Path) -> None:
    pytest.importorskip("webdataset", reason="plain webdataset is only compared where it is installed")
    from benchmarks.data_sets import pool, write_shards
    from benchmarks.data_sources import Setting, opened

    content = pool(image_size=16)[:10]
    write_shards(tmp_path / "shards", content, size=24, shards=2)
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        batches = list(opened("webdataset", Setting(tmp_path, content, tmp_path / "shards", 24, 16, 8))(0))
        gc.collect()  # the library leaves its shards to it
    assert [len(batch.images) for batch in batches] == [8, 8, 8]
    assert batches[0].images.shape[1:] == (3, 16, 16)


def test_tables_of_made_up_figures(tmp_path: Path) -> None:
    from benchmarks.data_tables import markdown

    machine = {"command": "c", "torch": "2", "processor": "p", "cores": 2, "threads": 1}
    machine |= {"load_before": [0.0], "load_after": [1.0]}
    opened = {"index": "read", "pairs": 1000, "seconds": 0.5, "cpu_seconds": 0.25, "index_bytes": 65_000}
    opened |= {"own_opened": 2**20, "own_read": 2**21, "mapped_opened": 0, "mapped_read": 2**19}
    speed = {"source": "tar", "workers": 0, "median": 1234.4, "min": 1000.0, "max": 2000.0, "cpu_ms": 0.5}
    waiting = {"source": "tar", "workers": 0, "wait_ms": 12.34, "step_ms": 200.0, "share": 0.0617}
    result = {"machine": machine, "pairs": 1000, "shards": 2, "image_size": 64, "batch_size": 8, "batches": 3}
    result |= {"generated": {"seconds": 1.0, "bytes": 2**21, "image_bytes": 900.0}, "rounds": 5}
    text = markdown(result | {"opening": [opened], "speed": [speed], "waiting": [waiting], "missing": {"x": "y"}})
    assert "| read | 1,000 | 0.50 | 0.25 | 0.1 | 65.0 | 1.0 / 2.0 | 0.0 / 0.5 |" in text
    assert "| tar | 0 | 1,234 | 1,000-2,000 | 0.50 |" in text
    assert "| tar | 0 | 12.3 | 200 | 6.2% |" in text
    assert text.endswith("Not measured: x: y.\n")


def test_generated_shards_hold_what_was_asked_for(tmp_path: Path) -> None:
    from benchmarks.data_sets import Stored, write_shards

    content = [Stored("", "png", b"p", "one"), Stored("", "jpg", b"j", "two")]
    write_shards(tmp_path / "s", content, size=7, shards=3)  # 2, 2 and 3 pairs
    names = []
    for path in sorted((tmp_path / "s").iterdir()):
        with tarfile.open(path) as tar:
            names.append([member.name for member in tar])
            caption = {"png": b"one", "jpg": b"two"}[names[-1][0].partition(".")[2]]
            assert tar.extractfile(names[-1][1]).read() == caption
    assert [len(members) for members in names] == [6, 6, 9]
    keys = [name.partition(".")[0] for members in names for name in members]
    assert keys == [f"{i // 3:09d}" for i in range(21)]


def test_the_first_batch_does_not_count() -> None:
    from benchmarks.data_speed import timed_reading

    def batches() -> Iterator[Any]:
        for size in (100, 3, 4, 5):
            yield Batch(torch.zeros(size, 3, 1, 1), *(torch.zeros(size, 1).long(),) * 2, torch.zeros(size).long())

    assert timed_reading(batches(), count=2).pairs == 3 + 4


def test_waiting_is_a_share_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves by 1 s per batch and 3 s per step: a quarter of the time is waiting."""
    from benchmarks import data_speed

    now = [0.0]
    monkeypatch.setattr(data_speed.time, "perf_counter", lambda: now[0])

    def batches() -> Iterator[Any]:
        while True:
            now[0] += 1
            yield None

    def step(batch: Any) -> None:
        now[0] += 3

    assert data_speed.waiting(batches(), step, steps=4) == {"wait_ms": 1000, "step_ms": 4000, "share": 0.25}
