import tarfile
from pathlib import Path
from typing import Any

import pytest

from limoe.data.bad_samples import BadSample
from limoe.data.shards import builder as shard_builder
from limoe.data.shards.builder import Contents, describe, read_contents, split_name
from tests.helpers.shards import png, sample, samples, tar_bytes, write_tar


def contents(path: Path) -> Contents:
    found = read_contents(path)
    return found


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return tmp_path / "train-0.tar"


def keys(found: Contents) -> list[str]:
    return [sample.key for sample in found.samples]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", ("a", "png")),
        ("./a.PNG", ("a", "png")),
        ("x.y/b/a.PNG", ("x.y/b/a", "png")),
        ("a.v1.png", ("a", "v1.png")),
        ("../../a.txt", ("../../a", "txt")),
        (".hidden.png", None),
        ("x/._a.png", None),
        ("README", None),
        ("folder.d/README", None),
    ],
)
def test_the_key_ends_at_the_first_dot_after_the_last_slash(name: str, expected: tuple[str, str] | None) -> None:
    assert split_name(name) == expected


def test_members_are_found_where_they_are(shard: Path) -> None:
    write_tar(shard, sample("a", caption="one", fields={"g": "h"}) + sample("b", suffix="JPG"))
    data = shard.read_bytes()
    first, second = contents(shard).samples

    def read(span: Any) -> Any:
        return data[span.offset : span.offset + span.size]

    assert read(first.image) == png()
    assert describe(first, read=read) == (["one"], {"g": "h"}, "a")
    assert second.fields is None
    assert describe(second, read=read) == (["a caption"], {}, "b")


def test_members_of_a_sample_may_lie_apart(shard: Path) -> None:
    one, two = sample("1", fields={}), sample("2", fields={})
    write_tar(shard, [file for both in zip(one, two, strict=True) for file in both])
    found = contents(shard)
    assert keys(found) == ["1", "2"]
    assert all(sample.text and sample.fields for sample in found.samples)
    assert found.bad.total == 0


IMAGE, TEXT = sample("k")


@pytest.mark.parametrize(
    ("files", "kind", "reason"),
    [
        ([TEXT], "no_image", "no image (jpg, jpeg, png, webp) among its members .txt"),
        ([("k.v1.png", png()), ("k.v1.txt", b"1")], "no_image", "among its members .v1.png, .v1.txt"),
        ([IMAGE, TEXT, ("k.jpg", png())], "two_images", "2 images among its members .png, .txt, .jpg"),
        ([("k.png", b""), TEXT], "empty", "0 bytes"),
        ([IMAGE], "no_caption", "no caption"),
        ([IMAGE, ("k.txt", b" \n")], "no_caption", "empty"),
        ([IMAGE, ("k.txt", b"a\xff")], "bad_text", "not UTF-8 (byte 1)"),
        ([IMAGE, TEXT, ("k.json", b"{")], "bad_json", "cannot be read"),
        ([IMAGE, TEXT, ("k.json", b"[1]")], "bad_json", "must hold an object, got list"),
        ([IMAGE, TEXT, ("k.json", b'{"captions": ["a \\ud800"]}')], "bad_text", "lone surrogate"),
    ],
)
def test_bad_samples_are_counted_and_the_others_stay(
    shard: Path, files: list[tuple[str, bytes]], kind: str, reason: str
) -> None:
    write_tar(shard, samples("a") + files + samples("b"))
    found = contents(shard)
    assert keys(found) == ["a", "b"]
    assert found.damage is None
    assert found.bad.counts == {kind: 1}
    (bad,) = found.bad.first
    assert bad[:3] == (str(shard), "k", kind)
    assert reason in bad.reason


def test_files_that_are_too_large_are_never_read(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_builder, "MAX_IMAGE", 100)
    monkeypatch.setattr(shard_builder, "MAX_BYTES", 10)
    write_tar(shard, [("a.png", bytes(101)), ("a.txt", b"1"), ("b.png", bytes(100)), ("b.txt", b"12345678901")])
    found = contents(shard)
    assert [(bad.key, bad.kind) for bad in found.bad.first] == [("a", "too_large"), ("b", "too_large")]
    assert [bad.reason for bad in found.bad.first] == [
        "an image of 101 bytes, more than 100",
        "a text of 11 bytes, more than 10",
    ]


def test_of_a_repeated_key_the_first_counts(shard: Path) -> None:
    write_tar(shard, sample("a", caption="first") + samples("b") + sample("a", caption="second"))
    found = contents(shard)
    assert keys(found) == ["a", "b"]
    assert found.samples[0].text.offset < found.samples[1].text.offset
    assert found.bad.counts == {"duplicate_key": 1}


def test_members_of_two_samples_with_one_key_are_never_mixed(shard: Path) -> None:
    first, second = sample("a", caption="1"), sample("a", caption="2")
    write_tar(shard, [first[0], second[0], first[1], second[1]])
    found = contents(shard)
    assert keys(found) == []
    assert found.bad.counts == {"no_caption": 1, "duplicate_key": 1}


def damage(shard: Path, *, at: int, files: list[tuple[str, bytes]]) -> Contents:
    data = bytearray(tar_bytes(files))
    data[at] ^= 1
    shard.write_bytes(data)
    return contents(shard)


# Every sample of `sample` takes 4 blocks of 512 bytes: header and data of an image, header and data of a text; with
# fields it takes 6.


def test_whole_samples_before_a_damage_stay(shard: Path) -> None:
    found = damage(shard, at=2 * 2048, files=samples("a", "b", "c"))
    assert keys(found) == ["a", "b"]
    assert found.damage == "damaged at byte 4,096: the checksum of the header is wrong"
    reason = "damaged at byte 4,096: the checksum of the header is wrong; 2 whole samples before that are used"
    assert found.bad.first == [BadSample(str(shard), "", "damaged_shard", reason)]


@pytest.mark.parametrize(("block", "kept"), [(6, ["a"]), (8, ["a"]), (10, ["a"]), (12, ["a", "b"]), (14, ["a", "b"])])
def test_a_sample_that_lost_members_to_a_damage_goes_and_is_not_counted_twice(
    shard: Path, block: int, kept: list[str]
) -> None:
    """Blocks 6-11 are b: its image, text and json. Without its json b would have a caption, but no label."""
    found = damage(shard, at=block * 512, files=[file for key in "abc" for file in sample(key, fields={"x": "y"})])
    assert keys(found) == kept
    assert found.bad.counts == {"damaged_shard": 1}


def test_a_cut_between_the_members_of_a_sample_is_a_damage(shard: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = tar_bytes(samples("a", "b"))
    shard.write_bytes(whole[: 6 * 512])
    found = contents(shard)
    assert keys(found) == ["a"]
    assert found.damage == "damaged at byte 3,072: it ends inside a sample, without an end mark"
    shard.write_bytes(whole[: 8 * 512])
    found = contents(shard)
    assert (keys(found), found.damage, found.bad.total) == (["a", "b"], None, 0)
    assert caplog.messages == [f"{shard} has no end mark: it may have been cut between two samples"]


def test_links_are_neither_followed_nor_found(shard: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    with tarfile.open(shard, "w") as tar:
        link = tarfile.TarInfo("k.txt")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    found = contents(shard)
    assert (found.samples, found.bad.total) == ([], 0)


def test_what_follows_the_end_mark_is_a_damage_but_no_sample_is_unfinished(shard: Path) -> None:
    shard.write_bytes(2 * tar_bytes(sample("a", fields={}) + sample("b")))
    found = contents(shard)
    assert keys(found) == ["a", "b"]
    assert found.damage.endswith("there is data after the end mark")
    assert found.bad.counts == {"damaged_shard": 1}
