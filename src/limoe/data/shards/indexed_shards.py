"""Tar shards with their indexes, which are built where they are missing or outdated."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from limoe.data.shards.builder import read_contents
from limoe.data.shards.index import SUFFIX, Located, ShardFacts, ShardIndex, write_index
from limoe.errors import DataError
from limoe.files import cache_path, sha256, stamp

log = logging.getLogger(__name__)

VERIFY = ("changed", "full")
_THREADS = 8  # shards are hashed and scanned in parallel


def index_shards(paths: Sequence[Path], *, cache_dir: str | None, verify: str) -> list[ShardIndex]:
    """Index all shards, in order. An index is reused as long as its shard has the same size and modification time, with
    `verify="full"` only if the sha256 is the same.

    Raises `DataError` if a file is no tar or cannot be read, or an index cannot be written.
    """
    try:
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            done = pool.map(lambda path: _indexed(path, cache_dir=cache_dir, verify=verify), paths)
            bar = tqdm(done, desc="indexing", total=len(paths), unit=" shards", delay=2, leave=False, disable=None)
            return list(bar)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}; `cache_dir` says where indexes are kept") from error


def repeated_keys(indexes: Sequence[ShardIndex]) -> list[int]:
    """Positions, over all indexes, of samples with an earlier key. Uses 16 bytes per sample during the call."""
    hashes = np.concatenate([index.hashes for index in indexes])
    ordered = np.sort(hashes)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    starts = np.cumsum([0, *map(len, indexes)])
    seen: set[str] = set()
    repeated = []
    for position in np.flatnonzero(np.isin(hashes, twice)).tolist():  # equal hashes do not imply equal keys
        shard = int(np.searchsorted(starts, position, side="right")) - 1
        key = indexes[shard][position - int(starts[shard])].key
        if key in seen:
            repeated.append(position)
        seen.add(key)
    return repeated


def _indexed(path: Path, *, cache_dir: str | None, verify: str) -> ShardIndex:
    place = cache_path(path, suffix=SUFFIX, cache_dir=cache_dir)
    index = None
    with suppress(OSError, ValueError, KeyError, TypeError):  # no usable index of an earlier run
        index = ShardIndex(place)
    if index is None or verify == "full" or [index.facts.size, index.facts.mtime_ns] != stamp(path):
        facts, samples = _walked(path)
        if index is None or index.facts != facts:
            write_index(place, facts=facts, samples=samples)
        if index is not None and index.facts.sha256 != facts.sha256:
            log.warning("%s has changed since it was indexed; indexed again", path)
        index = ShardIndex(place)
    return index


def _walked(path: Path) -> tuple[ShardFacts, list[Located]]:
    size, mtime_ns = stamp(path)  # taken before the file is read
    digest = sha256(path)
    contents = read_contents(path)
    facts = ShardFacts(
        size=size,
        mtime_ns=mtime_ns,
        sha256=digest,
        damage=contents.damage,
        bad=[list(sample[1:]) for sample in contents.bad.first],
        bad_counts=dict(contents.bad.counts),
    )
    return facts, contents.samples
