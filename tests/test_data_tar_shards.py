import io
import json
import os
import pickle
import tarfile

import pytest
from PIL import Image

from limoe.data.tar_shards import TarShards
from limoe.errors import DataError


def png(colour="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def sample(key, *, colour="red", caption="a caption", fields=None, suffix="png"):
    files = [(f"{key}.{suffix}", png(colour)), (f"{key}.txt", caption.encode())]
    return files if fields is None else [*files, (f"{key}.json", json.dumps(fields).encode())]


def one_shard(tmp_path, files):
    write_tar(tmp_path / "train-0.tar", files)
    return TarShards(root=str(tmp_path), split="train")


def refused(tmp_path, files):
    """The message, which must name the shard and stay in one line."""
    with pytest.raises(DataError) as error:
        one_shard(tmp_path, files)
    assert "train-0.tar" in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_samples_come_in_the_order_of_the_shards(tmp_path):
    write_tar(tmp_path / "shards" / "train-0001.tar", sample("c"))
    write_tar(tmp_path / "shards" / "train-0000.tar", sample("b", colour="blue") + sample("a"))
    write_tar(tmp_path / "shards" / "val-0000.tar", sample("d"))
    data = TarShards(root=str(tmp_path), split="train")
    assert [data[i].key for i in range(len(data))] == ["b", "a", "c"]
    assert data[0].image.getpixel((0, 0)) == (0, 0, 255)
    assert data[1].image.getpixel((0, 0)) == (255, 0, 0)


def test_captions_of_the_json_go_before_the_text(tmp_path):
    fields = {"captions": ["first", " second "], "group": "g", "number": 3}
    data = one_shard(tmp_path, sample("a", fields=fields) + sample("b", caption="\ufeffalone \n", fields={"x": "y"}))
    assert data[0].captions == ["first", "second"]
    assert data[0].labels == {"group": "g"}
    assert data[1].captions == ["alone"]
    assert list(data.captions()) == ["first", "second", "alone"]
    assert tuple(data.describe(1)) == (["alone"], {"x": "y"}, "b")


def test_keys_may_be_interleaved_and_lie_in_folders(tmp_path):
    first, second = sample("./x/1"), sample("y/1", suffix="PNG")
    files = [first[0], second[0], second[1], first[1], ("x/.hidden.png", b""), ("README", b"")]
    data = one_shard(tmp_path, files)
    assert [data.describe(i).key for i in range(2)] == ["x/1", "y/1"]


def test_a_pickled_copy_reads_on_its_own(tmp_path):
    data = one_shard(tmp_path, sample("a"))
    first = data[0]
    copy = pickle.loads(pickle.dumps(data))
    assert copy[0].image.tobytes() == first.image.tobytes()
    assert copy[0][1:] == first[1:]


def test_descriptors_are_closed_with_the_dataset(tmp_path):
    data = one_shard(tmp_path, sample("a"))
    _ = data[0]
    (descriptor,) = data._descriptors.values()
    del data
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_missing_folder_and_split_say_what_to_set(tmp_path):
    with pytest.raises(
        DataError, match=r"data\.root: folder .*nowhere does not exist; set data\.root=/path/to/nowhere"
    ):
        TarShards(root=str(tmp_path / "nowhere"), split="train")
    with pytest.raises(DataError, match=r"data\.root: no train-\*\.tar in "):
        TarShards(root=str(tmp_path), split="train")


def test_bad_samples_are_named_before_training(tmp_path):
    picture, text = sample("k")
    assert "two .png members" in refused(tmp_path, [picture, text, picture])
    assert "sample 'k' has no caption" in refused(tmp_path, [picture])
    assert "sample 'k' has no caption" in refused(tmp_path, [picture, ("k.txt", b" \n")])
    assert "sample 'k' has 0 pictures" in refused(tmp_path, [text])
    assert "sample 'k' has 2 pictures" in refused(tmp_path, [picture, text, ("k.jpg", b"")])
    assert "sample 'k': k.txt is not UTF-8 (byte 1)" in refused(tmp_path, [picture, ("k.txt", b"a\xff")])


def test_a_split_without_samples_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"train-\*\.tar: no sample in 1 shards"):
        one_shard(tmp_path, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "its .json is not JSON"),
        (b"[" * 100_000, "its .json is not JSON"),
        (b"[1]", "its .json must hold an object, got list"),
        (b'{"captions": "one"}', "captions in its .json must be a list of texts, got 'one'"),
        (b'{"captions": ["a", null]}', "captions in its .json must be a list of texts"),
        (b'{"captions": ["a \\ud800"]}', "lone surrogate"),
    ],
)
def test_bad_json_is_named(tmp_path, content, message):
    assert message in refused(tmp_path, [*sample("k"), ("k.json", content)])


def test_a_key_in_two_shards_is_refused(tmp_path):
    for number in range(2):
        write_tar(tmp_path / f"train-{number}.tar", sample("a"))
    with pytest.raises(DataError, match=r"train-1\.tar: key 'a' is in .*train-0\.tar too"):
        TarShards(root=str(tmp_path), split="train")


def test_an_unreadable_picture_is_named_when_it_is_read(tmp_path):
    data = one_shard(tmp_path, [("k.png", b"not a picture"), ("k.txt", b"text")])
    with pytest.raises(DataError, match=r"train-0\.tar: picture of 'k' \(13 bytes\) is none of JPEG, PNG, WEBP"):
        data[0]


def test_nothing_is_written_by_names_that_climb(tmp_path):
    inside = tmp_path / "data"
    write_tar(inside / "train-0.tar", sample("../../evil") + sample(str(tmp_path / "absolute")))
    before = sorted(tmp_path.rglob("*"))
    data = TarShards(root=str(inside), split="train")
    assert len([data[i] for i in range(2)]) == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_the_emoji_shards_hold_what_their_manifest_says(shared):
    root = shared / "data" / "emoji-captions"
    for split, size in {"val": 333, "test_vendor": 1591, "test_identity": 1121, "test_both": 200}.items():
        assert len(TarShards(root=str(root), split=split)) == size
    data = TarShards(root=str(root), split="train")
    assert len(data) == 8065
    assert data[0].image.size == (64, 64)
    assert {data.describe(i).labels["vendor"] for i in range(8065)} == {
        "noto", "openmoji", "blob", "emojione", "fluent3d", "fluentflat"
    }  # fmt: skip
