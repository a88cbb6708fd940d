"""Every broken or odd tar of the reference data does what its `expected.json` says, alone and beside a good shard."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from limoe.data.bad_samples import BadSampleError
from limoe.data.shards.tar_shards import TarShards
from limoe.errors import DataError
from tests.helpers.shards import samples, write_tar

PACKED = ("gzip_named.tar", "good.tar.gz")  # refused, while the list allows to read them

# Samples that come out, and what is counted; where the list of expectations leaves a choice, this is ours.
EXPECTED = {
    "good.tar": (8, {}),
    "cut_in_middle.tar": (4, {"damaged_shard": 1}),
    "cut_in_header.tar": (3, {"damaged_shard": 1}),
    "no_end_blocks.tar": (8, {}),
    "empty_file.tar": (0, {"damaged_shard": 1}),
    "only_end_blocks.tar": (0, {}),
    "not_a_tar.tar": (None, {}),
    **dict.fromkeys(PACKED, (None, {})),
    "path_traversal.tar": (5, {}),
    "links_and_devices.tar": (1, {"no_caption": 4}),
    "missing_pair_member.tar": (2, {"no_caption": 1, "no_image": 2}),
    "broken_member_images.tar": (2, {"empty": 1, "bad_image": 1, "bad_text": 1, "no_caption": 1}),
    "duplicate_keys.tar": (2, {"duplicate_key": 1}),
    "interleaved_members.tar": (3, {}),
    "nested_and_dotted.tar": (3, {"no_image": 1}),
    "long_unicode_names_pax.tar": (2, {}),
    "huge_declared_size.tar": (0, {"damaged_shard": 1}),
    "bad_checksum.tar": (4, {"damaged_shard": 1}),
    "mixed_formats.tar": (5, {}),
}


def read_all(data: TarShards) -> tuple[Any, ...]:
    """How many pairs come out, and all that was bad, before and while reading."""
    good, counts = 0, dict(data.bad.counts)
    for i in range(len(data)):
        try:
            pair = data[i]
            assert pair.image.mode == "RGB"
            assert all(caption.strip() for caption in pair.captions)
            good += 1
        except BadSampleError as error:
            counts[error.sample.kind] = counts.get(error.sample.kind, 0) + 1
    return good, counts


def copied(shared: Path, tmp_path: Path, name: str) -> None:
    suffix = ".tar.gz" if name.endswith("gz") else ".tar"
    shutil.copyfile(shared / "data" / "corrupt" / "tar" / name, tmp_path / f"train-0{suffix}")


def shards(tmp_path: Path) -> TarShards:
    return TarShards(root=str(tmp_path), split="train")


@pytest.mark.parametrize("name", EXPECTED)
def test_beside_a_good_shard(shared: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    copied(shared, tmp_path, name)
    write_tar(tmp_path / "train-1.tar", samples("good-1", "good-2"))
    good, counts = EXPECTED[name]
    if good is None:
        with pytest.raises(DataError, match=r"train-0\.tar(.gz)? is (not a tar file|packed by gzip)"):
            shards(tmp_path)
        return
    with caplog.at_level(logging.WARNING):
        data = shards(tmp_path)
    assert read_all(data) == (good + 2, counts)
    told = [message for message in caplog.messages if "train-0" in message]
    assert len(told) == (1 if "damaged_shard" in counts or name == "no_end_blocks.tar" else 0)


@pytest.mark.parametrize("name", [name for name, (good, _) in EXPECTED.items() if good == 0])
def test_alone_a_shard_without_samples_is_an_error_that_names_it(shared: Path, tmp_path: Path, name: str) -> None:
    copied(shared, tmp_path, name)
    place = r"train-\*: no usable sample" if name == "only_end_blocks.tar" else r"train-0\.tar: damaged at byte 0"
    with pytest.raises(DataError, match=place):
        shards(tmp_path)


def test_the_list_of_expectations_agrees(shared: Path) -> None:
    listed = json.loads((shared / "data" / "corrupt" / "expected.json").read_text())["files"]
    listed = {name.removeprefix("tar/"): row["expect"] for name, row in listed.items() if row["kind"] == "tar"}
    assert set(listed) == set(EXPECTED)
    for name, expect in listed.items():
        if name in PACKED:
            continue
        word, _, number = expect.removesuffix("_or_error").partition(":")
        good = EXPECTED[name][0]
        if word == "error":
            assert not good
        elif number.isdigit():
            assert good == int(number)
        else:
            assert good > 0


def test_nothing_is_written_outside(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMOE_CACHE_DIR")
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    copied(shared, inside, "path_traversal.tar")
    read_all(shards(inside))
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"train-0.tar", "train-0.tar.index"}
