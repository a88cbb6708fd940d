import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from limoe.data.bad_samples import BadSampleError
from limoe.data.sources.image_folder import ImageFolder
from limoe.errors import DataError


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def folder(root: Path, **settings: list[str] | str) -> ImageFolder:
    return ImageFolder(root=str(root), **settings)


def keys(data: ImageFolder) -> list[str]:
    return [data.describe(i).key for i in range(len(data))]


def kinds(data: ImageFolder) -> dict[str, int]:
    return dict(data.bad.counts)


def test_texts_beside_the_images(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "b.png": png("blue"),
            "b.txt": b"\xef\xbb\xbffirst\r\n\r\n second \n",
            "a/x.JPG": png(),
            "a/x.txt": b"third",
            "a/lonely.txt": b"no image",
            ".hidden/c.png": png(),
            "._b.png": b"",
        },
    )
    data = folder(tmp_path, captions="txt")
    assert keys(data) == ["a/x.JPG", "b.png"]
    assert data.describe(1).captions == ["first", "second"]
    assert list(data.captions()) == ["third", "first", "second"]
    assert data[1].image.getpixel((0, 0)) == (0, 0, 255)
    assert data[1][1:] == tuple(data.describe(1))
    assert data.bad.total == 0


def test_images_without_a_usable_text_are_counted(tmp_path: Path) -> None:
    write(tmp_path, {f"{name}.png": png() for name in "abcd"})
    write(tmp_path, {"a.txt": b"good", "b.txt": b" \n", "c.txt": b"\xff"})
    data = folder(tmp_path, captions="txt")
    assert keys(data) == ["a.png"]
    assert kinds(data) == {"no_caption": 2, "bad_text": 1}
    assert [(bad.place, bad.key) for bad in data.bad.first] == [(str(tmp_path), f"{name}.png") for name in "bcd"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_list_of_captions(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, {"b.png": png(), "sub/a.png": png("blue"), "unlisted.png": png()})
    names = ["sub/a.png", "b.png", "missing.png", "../b.png", "b.png", "b.png"]
    texts = ["one", "two", "x", "x", "again", ""]
    if suffix == "csv":
        content = "file_name,text,label\n" + "".join(f"{n},{t},l\n" for n, t in zip(names, texts, strict=True))
    else:
        rows = [{"file_name": n, "text": t, "label": "l"} for n, t in zip(names, texts, strict=True)]
        content = "\n".join(map(json.dumps, rows))
    (tmp_path / f"metadata.{suffix}").write_text(content)
    data = folder(tmp_path, captions="metadata", label_columns=["label"])
    assert [tuple(data.describe(i)) for i in range(2)] == [
        (["one"], {"label": "l"}, "sub/a.png"),
        (["two"], {"label": "l"}, "b.png"),
    ]
    assert len(data) == 2
    assert data[0].image.getpixel((0, 0)) == (0, 0, 255)
    assert kinds(data) == {"missing_file": 1, "outside": 1, "duplicate_key": 1, "no_caption": 1}


def test_metadata_must_be_one_file_with_the_column(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": png()})
    with pytest.raises(DataError, match=r"must hold one of metadata\.csv, metadata\.jsonl, .* and holds 0"):
        folder(tmp_path, captions="metadata")
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.png,x\n")
    with pytest.raises(DataError, match=r"metadata\.csv has no column text; there: file_name, caption"):
        folder(tmp_path, captions="metadata")
    assert len(folder(tmp_path, captions="metadata", caption_column="caption")) == 1


def test_class_folders(tmp_path: Path) -> None:
    write(tmp_path, {"hot_dog/2.png": png(), "hot_dog/deep/1.png": png(), "cat/1.png": png(), "stray.png": png()})
    data = folder(tmp_path, captions="folders", templates=["a photo of a {}", "{}"])
    assert keys(data) == ["cat/1.png", "hot_dog/2.png", "hot_dog/deep/1.png"]
    assert tuple(data.describe(2)) == (["a photo of a hot dog", "hot dog"], {"class": "hot_dog"}, "hot_dog/deep/1.png")
    assert kinds(data) == {"no_class": 1}


def test_nothing_outside_the_folder_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"out/secret.png": png(), "out/secret.txt": b"s", "in/a.png": png(), "in/a.txt": b"a"})
    root = tmp_path / "in"
    (root / "link.png").symlink_to(tmp_path / "out" / "secret.png")
    (root / "within.png").symlink_to(root / "a.png")
    (root / "linked").symlink_to(tmp_path / "out", target_is_directory=True)
    os.mkfifo(root / "pipe.png")
    write(root, {f"{name}.txt": b"x" for name in ("link", "within", "pipe")})
    data = folder(root, captions="txt")
    assert keys(data) == ["a.png", "within.png"]
    assert kinds(data) == {"outside": 1, "missing_file": 1}
    assert len(data[1].captions) == 1


def test_a_image_that_breaks_later_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": b"no image", "a.txt": b"a", "b.png": png(), "b.txt": b"b"})
    data = folder(tmp_path, captions="txt")
    (tmp_path / "b.png").unlink()
    for index, kind in enumerate(["unknown_format", "missing_file"]):
        with pytest.raises(BadSampleError) as error:
            data[index]
        assert error.value.sample.kind == kind


def test_hopeless_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*nowhere; set root to the folder"):
        folder(tmp_path / "nowhere", captions="txt")
    write(tmp_path, {"a.png": png()})
    with pytest.raises(
        DataError,
        match=r"no usable pair \(captions: txt; left out as bad: 1 \(no_caption 1\), first .*'a\.png': there is",
    ):
        folder(tmp_path, captions="txt")
    with pytest.raises(ValueError, match=r"must be txt or metadata or folders, got 'json'"):
        folder(tmp_path, captions="json")
    with pytest.raises(ValueError, match=r"must be texts with one \{\} each, got \['a photo'\]"):
        folder(tmp_path, captions="folders", templates=["a photo"])
