"""Image-text pairs streamed from tar shards, locally or over HTTP, by `webdataset`.

The parts of the library in use neither start programs nor load pickles: shards are opened here, members other than
images, `.txt` and `.json` are skipped, and bytes are decoded by limoe. A damaged tar header ends the reading of its
shard, sometimes without an error (Python's `tarfile`); the indexed source `TarShards` reports it.
"""

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any
from urllib.request import urlopen

from limoe.data.bad_samples import BadContent, BadSample
from limoe.data.images.decoding import decode_rgb
from limoe.data.pairs import Description
from limoe.data.shards.builder import IMAGES, split_name
from limoe.data.text.captions import read_description
from limoe.errors import ArgumentError, DataError, LimoeError, require_argument
from limoe.types import Pair

try:
    from braceexpand import braceexpand
    from webdataset.filters import shuffle
    from webdataset.tariterators import group_by_keys, tar_file_expander
except ImportError as error:
    raise LimoeError("streaming needs the package webdataset: pip install webdataset") from error

_SUFFIXES = {*IMAGES, "txt", "json"}
_TIMEOUT = 60  # seconds without an answer from a server
Sample = dict[str, Any]  # bytes by suffix, and `__key__` and `__url__`


class ShardStream:
    """`shards`: local paths, patterns such as `train-*.tar`, or http(s) URLs; `{000..099}` expands to a range.

    `epoch_pairs`: pairs that count as one epoch, since the total is unknown. `shuffle`: size of the shuffle buffer in
    samples (stored bytes). `caption_pairs`: pairs at the start with the captions that a tokenizer is trained on.
    """

    def __init__(self, *, shards: str | Sequence[str], epoch_pairs: int, shuffle: int, caption_pairs: int) -> None:
        require_argument(epoch_pairs > 0, "epoch_pairs", "> 0 (pairs)", epoch_pairs)
        require_argument(shuffle > 0, "shuffle", "> 0 (samples; 1: as they come)", shuffle)
        require_argument(caption_pairs > 0, "caption_pairs", "> 0 (pairs)", caption_pairs)
        patterns = [shards] if isinstance(shards, str) else shards
        self.shards = [place for pattern in patterns for place in _places(pattern)]
        require_argument(len(self.shards) > 0, "shards", "at least one path or URL", shards)
        self.epoch_pairs = epoch_pairs
        self.shuffle = shuffle
        self.caption_pairs = caption_pairs

    def captions(self) -> Iterator[str]:
        """Captions of the first `caption_pairs` pairs with usable texts, in stored order."""
        left = self.caption_pairs
        for shard in self.shards:
            for sample in _samples(shard, bad=[]):
                try:
                    yield from _describe(sample).captions
                except BadContent:
                    continue
                left -= 1
                if left == 0:
                    return

    def pairs(self, *, rng: Random, part: int, parts: int) -> Iterator[Pair | BadSample]:
        """Infinite iterator over every `parts`-th shard, each pass in a new order drawn from `rng`.

        Raises `DataError` if one pass yields no sample.
        """
        own = rng.sample(self.shards, len(self.shards))[part::parts]
        bad: list[BadSample] = []
        mix = shuffle(self.shuffle, initial=self.shuffle // 2, rng=rng)
        for sample in mix(_endless(own, rng=rng, bad=bad)):
            yield from bad
            bad.clear()
            try:
                text = _describe(sample)
                yield Pair(decode_rgb(_image(sample)), *text)
            except BadContent as error:
                yield error.at(sample["__url__"], sample["__key__"])


def _endless(shards: Sequence[str], *, rng: Random, bad: list[BadSample]) -> Iterator[Sample]:
    while True:
        found = False
        for shard in rng.sample(shards, len(shards)):
            for sample in _samples(shard, bad=bad):
                found = True
                yield sample
        if not found:
            reason = f"; {bad[-1].place}: {bad[-1].reason}" if bad else ""
            raise DataError(f"no sample in {len(shards)} shards, such as {shards[0]}{reason}")


def _samples(shard: str, *, bad: list[BadSample]) -> Iterator[Sample]:
    """The groups of members of one shard; errors of the shard itself are added to `bad`."""

    def note(error: Exception) -> bool:
        reason = " ".join(f"{type(error).__name__}: {error.args[0] if error.args else error}".split())[:150]
        bad.append(BadSample(shard, "", "damaged_shard", reason))
        return True  # webdataset: continue

    try:
        with urlopen(shard, timeout=_TIMEOUT) if _scheme(shard) else open(shard, "rb") as stream:
            source = [{"url": shard, "stream": stream}]
            members = tar_file_expander(
                source, handler=note, select_files=lambda name: _key_and_suffix(name)[1] in _SUFFIXES
            )
            yield from group_by_keys(members, keys=_key_and_suffix, handler=note)
    except OSError as error:
        note(error)


def _key_and_suffix(name: str) -> tuple[str | None, str | None]:
    return split_name(name) or (None, None)


def _describe(sample: Sample) -> Description:
    return read_description(sample["__key__"], text=sample.get("txt"), fields=sample.get("json"))


def _image(sample: Sample) -> bytes:
    images = [sample[suffix] for suffix in IMAGES if suffix in sample]
    if len(images) != 1:
        raise BadContent(f"{len(images)} images ({', '.join(IMAGES)}); it needs one", kind="no_image")
    return images[0]


def _places(pattern: str) -> list[str]:
    """URLs or files that one entry of `shards` expands to."""
    scheme = _scheme(pattern)
    if scheme not in ("", "http", "https"):
        raise ArgumentError(f"shards must be local paths or http(s) URLs, got {pattern!r:.100}", argument="shards")
    places = []
    for place in braceexpand(pattern):
        found = [place] if scheme or Path(place).is_file() else sorted(glob.glob(place, recursive=True))
        if not found:
            raise DataError(f"data.shards: no file {place}; set data.shards to the paths or URLs of the tar files")
        places += found
    return places


def _scheme(place: str) -> str:
    """`http` for `http://...`; empty for a path, also for one with a drive letter."""
    found = re.match(r"([a-z][a-z0-9+.-]+):", place, re.IGNORECASE)
    return found[1].lower() if found else ""
