"""Scan of one shard: positions of usable samples, and counts of unusable ones."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from limoe.data.bad_samples import BadContent, BadSample, BadSamples
from limoe.data.pairs import Description
from limoe.data.shards.index import Located, Span
from limoe.data.shards.tar_members import TarMembers
from limoe.data.text.captions import MAX_BYTES, read_description

log = logging.getLogger(__name__)

IMAGES = ("jpg", "jpeg", "png", "webp")
MAX_IMAGE = 1 << 28  # bytes of one image file
Read = Callable[[Span], bytes]


class Contents(NamedTuple):
    """Result of the scan of a shard; `damage` says where and why it stopped (None: at the end)."""

    samples: list[Located]
    damage: str | None
    bad: BadSamples


@dataclass(slots=True)
class _Group:
    """The members of one key by suffix, and the sample or bad sample that they form."""

    parts: dict[str, Span] = field(default_factory=dict)
    repeated: bool = False
    found: Located | BadSample | None = None


def read_contents(shard: Path) -> Contents:
    """Scan a shard. Memory grows with its samples.

    Raises `DataError` on a file that is not a tar, `OSError` on one that cannot be read.
    """
    size = shard.stat().st_size
    with shard.open("rb") as file:
        members = TarMembers(file, size=size, path=shard)
        groups = _grouped(members)
        for key, group in groups.items():
            try:
                group.found = _located(key, group.parts)
                describe(group.found, read=lambda span: os.pread(file.fileno(), span.size, span.offset))
            except BadContent as error:
                group.found = error.at(str(shard), key)
    damage = members.damage
    if not members.has_end and _drop_unfinished(groups):
        damage = damage or f"damaged at byte {size:,}: it ends inside a sample, without an end mark"
    if not members.has_end and not damage:
        log.warning("%s has no end mark: it may have been cut between two samples", shard)
    samples = [group.found for group in groups.values() if isinstance(group.found, Located)]
    return Contents(samples, damage, _bad_samples(groups, str(shard), damage, len(samples)))


def split_name(name: str) -> tuple[str, str] | None:
    """Key, and suffix in lower case: the key is the name up to the first dot after the last slash, as in webdataset.

    None for hidden files and names without a dot, which belong to no sample.
    """
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, dot, suffix = file.partition(".")
    return (folder + slash + stem, suffix.lower()) if stem and dot else None


def describe(sample: Located, *, read: Read) -> Description:
    """Read captions and labels of a sample. Raises `BadContent`."""
    text, fields = (None if span is None else _text(span, read) for span in (sample.text, sample.fields))
    return read_description(sample.key, text=text, fields=fields)


def _grouped(members: TarMembers) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    for member in members:
        if (name := split_name(member.name)) is None:
            continue
        key, suffix = name
        group = groups.setdefault(key, _Group())
        group.repeated |= suffix in group.parts
        if not group.repeated:  # after a repeated member the grouping is ambiguous: the first members count
            group.parts[suffix] = Span(member.offset, member.size)
    return groups


def _located(key: str, parts: dict[str, Span]) -> Located:
    images = [parts[suffix] for suffix in IMAGES if suffix in parts]
    names = ", ".join(f".{suffix}" for suffix in parts)[:60]
    if not images:
        raise BadContent(f"no image ({', '.join(IMAGES)}) among its members {names}", kind="no_image")
    if len(images) > 1:
        raise BadContent(f"{len(images)} images among its members {names}", kind="two_images")
    if images[0].size == 0:
        raise BadContent("its image is empty (0 bytes)", kind="empty")
    if images[0].size > MAX_IMAGE:
        raise BadContent(f"an image of {images[0].size:,} bytes, more than {MAX_IMAGE:,}", kind="too_large")
    return Located(key, images[0], parts.get("txt"), parts.get("json"))


def _text(span: Span, read: Read) -> bytes:
    if span.size > MAX_BYTES:
        raise BadContent(f"a text of {span.size:,} bytes, more than {MAX_BYTES:,}", kind="too_large")
    return read(span)


def _drop_unfinished(groups: dict[str, _Group]) -> bool:
    """Drop the last sample before a damage unless it has every suffix of the one before; True if it was dropped."""
    if not groups:
        return False
    *before, last = list(groups)[-2:]
    expected = set(groups[before[0]].parts) if before else set()
    if isinstance(groups[last].found, Located) and expected <= set(groups[last].parts):
        return False
    del groups[last]
    return True


def _bad_samples(groups: dict[str, _Group], place: str, damage: str | None, kept: int) -> BadSamples:
    bad = BadSamples()
    if damage:
        bad.add(BadSample(place, "", "damaged_shard", f"{damage}; {kept:,} whole samples before that are used"))
    for key, group in groups.items():
        if isinstance(group.found, BadSample):
            bad.add(group.found)
        if group.repeated:
            bad.add(BadSample(place, key, "duplicate_key", "the key occurs twice in the shard; the first one counts"))
    return bad
