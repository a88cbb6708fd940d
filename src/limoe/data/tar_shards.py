"""Image-text pairs in tar shards of the webdataset layout, read by position.

One sample is a group of members with one key: `KEY.png` (jpg, jpeg, png or webp), `KEY.txt` (a caption) and `KEY.json`
(`captions`: a list of texts; every text field is a label). The key is the name up to the first dot after the
last slash. Texts are read once, at the start; a picture only when it is asked for.
"""

import json
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from limoe.data.images import decode_rgb
from limoe.data.pairs import Description
from limoe.data.tar_index import Member, tar_members
from limoe.errors import DataError
from limoe.types import Pair

_PICTURES = ("jpg", "jpeg", "png", "webp")
_MAX_TEXT = 1 << 24  # bytes of one caption or json


class _Sample(NamedTuple):
    shard: int
    picture: Member
    text: Description


class TarShards:
    """All samples of `<root>/shards/<split>-*.tar`, or of `<root>/<split>-*.tar`, in the order of the shards.

    Raises `DataError` on a missing folder or split, a damaged shard, a key that occurs twice, and a sample without
    picture, without caption or with unreadable text: before training, naming the shard and the key.
    """

    def __init__(self, *, root: str, split: str) -> None:
        self.root = root
        self.split = split
        self.shards = _find_shards(Path(root), split)
        self._descriptors: dict[int, int] = {}
        weakref.finalize(self, _close_all, self._descriptors)
        self._samples: list[_Sample] = []
        keys: dict[str, Path] = {}
        for number, path in enumerate(
            tqdm(self.shards, desc=f"indexing {split}", unit="shard", delay=2, leave=False, disable=None)
        ):
            for key, members in _grouped(path).items():
                if key in keys:
                    raise DataError(f"{path}: key {key!r} is in {keys[key]} too; keys must be unique in a split")
                keys[key] = path
                self._samples.append(self._sample(number, key, members))
        if not self._samples:
            raise DataError(f"{self.shards[0].parent}/{split}-*.tar: no sample in {len(self.shards)} shards")

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Pair:
        shard, picture, text = self._samples[index]
        name = f"{self.shards[shard]}: picture of {text.key!r}"
        return Pair(decode_rgb(self._read(shard, picture), name=name), *text)

    def describe(self, index: int) -> Description:
        return self._samples[index].text

    def captions(self) -> Iterator[str]:
        for sample in self._samples:
            yield from sample.text.captions

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        weakref.finalize(self, _close_all, self._descriptors)

    def _sample(self, shard: int, key: str, members: dict[str, Member]) -> _Sample:
        place = f"{self.shards[shard]}: sample {key!r}"
        pictures = [members[suffix] for suffix in _PICTURES if suffix in members]
        if len(pictures) != 1:
            raise DataError(f"{place} has {len(pictures)} pictures ({', '.join(_PICTURES)}); it needs one")
        fields = _parse_json(self._read_text(shard, members["json"], place), place) if "json" in members else {}
        captions = _listed_captions(fields, place)
        if not captions and "txt" in members:
            captions = [self._read_text(shard, members["txt"], place)]
        captions = [caption.strip() for caption in captions if caption.strip()]
        if not captions:
            raise DataError(f"{place} has no caption; it needs a .txt or a .json with a list of captions")
        labels = {name: value for name, value in fields.items() if isinstance(value, str)}
        return _Sample(shard, pictures[0], Description(captions, labels, key))

    def _read(self, shard: int, member: Member) -> bytes:
        """Positional reads share no state, so forked loader workers may use one descriptor."""
        if shard not in self._descriptors:
            self._descriptors[shard] = os.open(self.shards[shard], os.O_RDONLY)
        return os.pread(self._descriptors[shard], member.size, member.offset)

    def _read_text(self, shard: int, member: Member, place: str) -> str:
        if member.size > _MAX_TEXT:
            raise DataError(f"{place}: {member.name} has {member.size:,} bytes, more than {_MAX_TEXT:,}")
        try:
            return self._read(shard, member).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: {member.name} is not UTF-8 (byte {error.start})") from error


def _find_shards(root: Path, split: str) -> list[Path]:
    if not root.is_dir():
        raise DataError(
            f"data.root: folder {root} does not exist; set data.root=/path/to/{root.name}, "
            "or LIMOE_DATA_DIR to the folder that holds it"
        )
    for folder in (root / "shards", root):
        if shards := sorted(folder.glob(f"{split}-*.tar")):
            return shards
    raise DataError(f"data.root: no {split}-*.tar in {root}/shards or {root}; is this the folder of the dataset?")


def _grouped(path: Path) -> dict[str, dict[str, Member]]:
    """Members by key and suffix. Hidden files and names without a suffix belong to no sample."""
    samples: dict[str, dict[str, Member]] = {}
    for member in tar_members(path):
        folder, slash, name = member.name.removeprefix("./").rpartition("/")
        stem, dot, suffix = name.partition(".")
        if not stem or not dot:
            continue
        key = folder + slash + stem
        members = samples.setdefault(key, {})
        if suffix.lower() in members:
            raise DataError(f"{path}: {key!r} has two .{suffix} members (byte {member.offset:,}); keys must be unique")
        members[suffix.lower()] = member
    return samples


def _parse_json(text: str, place: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: its .json is not JSON: {str(error)[:80]}") from error
    if not isinstance(fields, dict):
        raise DataError(f"{place}: its .json must hold an object, got {type(fields).__name__}")
    return fields


def _listed_captions(fields: dict[str, Any], place: str) -> list[str]:
    captions = fields.get("captions")
    if captions is None:
        return []
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise DataError(f"{place}: captions in its .json must be a list of texts, got {captions!r:.60}")
    if any("\ud800" <= character <= "\udfff" for caption in captions for character in caption):
        raise DataError(f"{place}: a caption in its .json holds half a character (a lone surrogate)")
    return captions


def _close_all(descriptors: dict[int, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])
