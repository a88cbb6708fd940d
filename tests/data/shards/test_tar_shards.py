import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from limoe.config.objects import instantiate
from limoe.config.places import register_resolvers
from limoe.data.bad_samples import BadSampleError
from limoe.data.pairs import DescribedPairs
from limoe.data.shards.tar_shards import TarShards
from limoe.errors import ConfigError, DataError
from tests.helpers.paths import CONFIGS
from tests.helpers.shards import png, sample, samples, tar_bytes, write_tar


def one_shard(tmp_path: Path, files: list[tuple[str, bytes]]) -> TarShards:
    write_tar(tmp_path / "train-0.tar", files)
    return TarShards(root=str(tmp_path), split="train")


def keys(data: TarShards) -> list[str]:
    return [data.describe(i).key for i in range(len(data))]


def test_samples_come_in_the_order_of_the_shards(tmp_path: Path) -> None:
    write_tar(tmp_path / "shards" / "train-0001.tar", sample("c"))
    write_tar(tmp_path / "shards" / "train-0000.tar", sample("b", colour="blue") + sample("a"))
    write_tar(tmp_path / "shards" / "val-0000.tar", sample("d"))
    data = TarShards(root=str(tmp_path), split="train")
    assert isinstance(data, DescribedPairs)
    assert [data[i].key for i in range(len(data))] == ["b", "a", "c"]
    assert data[0].image.getpixel((0, 0)) == (0, 0, 255)
    assert data[1].image.getpixel((0, 0)) == (255, 0, 0)
    assert data[-1].key == "c"
    with pytest.raises(IndexError):
        data[3]


def test_captions_of_the_json_go_before_the_text(tmp_path: Path) -> None:
    fields = {"captions": ["first", " second "], "group": "g", "number": 3}
    data = one_shard(tmp_path, sample("a", fields=fields) + sample("b", caption="\ufeffalone \n", fields={"x": "y"}))
    assert data[0].captions == ["first", "second"]
    assert data[0].labels == {"group": "g"}
    assert data[1].captions == ["alone"]
    assert list(data.captions()) == ["first", "second", "alone"]
    assert tuple(data.describe(1)) == (["alone"], {"x": "y"}, "b")


def test_names_of_any_kind_make_keys(tmp_path: Path) -> None:
    first, second = sample("./x/1"), sample("y/1", suffix="PNG")
    files = [first[0], second[0], second[1], first[1], ("x/.hidden.png", b""), ("README", b"")]
    data = one_shard(tmp_path, files)
    assert keys(data) == ["x/1", "y/1"]
    assert data.bad.total == 0


def test_indexes_may_lie_elsewhere(tmp_path: Path) -> None:
    write_tar(tmp_path / "data" / "train-0.tar", sample("a"))
    TarShards(root=str(tmp_path / "data"), split="train", cache_dir=str(tmp_path / "cache"))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["train-0.tar"]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_pickled_copy_reads_on_its_own_and_is_small(tmp_path: Path) -> None:
    data = one_shard(tmp_path, samples(*(f"{i}" for i in range(300))))
    first = data[0]
    stored = pickle.dumps(data)
    copy = pickle.loads(stored)
    assert copy[0].image.tobytes() == first.image.tobytes()
    assert copy[0][1:] == first[1:]
    assert len(stored) < 2500  # nothing per sample


def test_missing_folder_and_split_say_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"data\.root: folder .*nowhere does not exist; set data\.root=/path/to/nowhere"
    ):
        TarShards(root=str(tmp_path / "nowhere"), split="train")
    for split in ("train", "../x", "[", "/"):
        with pytest.raises(DataError, match=r"data\.root: no .*-\*\.tar in "):
            TarShards(root=str(tmp_path), split=split)


@pytest.mark.parametrize("root", ["pipe:touch marker", "http://example.org/data", "s3://bucket"])
def test_only_local_folders_are_read(root: str) -> None:
    with pytest.raises(DataError, match=r"data\.root must be a local folder, got "):
        TarShards(root=root, split="train")


def test_another_way_to_verify_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^verify must be changed or full, got 'never'"):
        TarShards(root=str(tmp_path), split="train", verify="never")


@pytest.mark.parametrize("name", ["emoji", "fashion", "caltech"])
def test_the_configs_hand_on_how_to_verify(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "train-0.tar", samples("a", "b"))
    for split in ("val", "test"):
        write_tar(tmp_path / f"{split}-0.tar", samples("c"))
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=[f"data={name}", f"data.root={tmp_path}", "data.verify=full"])
    for part in ("train", "val"):
        data = instantiate(cfg.data.module[part])
        assert (type(data), len(data)) == (TarShards, {"train": 2, "val": 1}[part])
        cfg.data.verify = "never"
        with pytest.raises(ConfigError, match=r"data\.verify must be"):
            instantiate(cfg.data.module[part])
        cfg.data.verify = "changed"


def test_bad_samples_of_all_shards_are_left_out_and_counted(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", [*samples("a", "b"), ("c.txt", b"alone")])
    write_tar(tmp_path / "train-1.tar", [*samples("d", "b"), ("e.png", png()), ("f.txt", b"alone")])
    data = TarShards(root=str(tmp_path), split="train")
    assert keys(data) == ["a", "b", "d"]
    assert data.bad.counts == {"no_image": 2, "no_caption": 1, "duplicate_key": 1}
    assert [(bad.place[-11:], bad.key) for bad in data.bad.first] == [
        ("train-0.tar", "c"),
        ("train-1.tar", "e"),
        ("train-1.tar", "f"),
        ("train-1.tar", "b"),
    ]


def test_positions_go_past_every_repeated_key(tmp_path: Path) -> None:
    for i, shard in enumerate(["abc", "bxc", "yab", "cz"]):
        write_tar(tmp_path / f"train-{i}.tar", samples(*shard))
    data = TarShards(root=str(tmp_path), split="train")
    assert keys(data) == list("abcxyz")
    assert data.bad.counts == {"duplicate_key": 5}


def test_a_damage_is_told_at_every_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tar(tmp_path / "train-0.tar", samples("a", "b"))
    (tmp_path / "train-1.tar").write_bytes(tar_bytes(samples("c", "d"))[: 5 * 512])
    (tmp_path / "train-2.tar").write_bytes(b"")
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            data = TarShards(root=str(tmp_path), split="train")
        assert keys(data) == ["a", "b", "c"]
        assert data.bad.counts == {"damaged_shard": 2}
        cut, empty = caplog.messages
        assert cut.endswith(
            f"train-1.tar is damaged at byte 2,048: its member needs {len(png())} bytes, the file ends 512 before its "
            "end; 1 whole samples before that are used"
        )
        assert "train-2.tar is damaged at byte 0: the file is empty; 0 whole samples" in empty
        caplog.clear()


def test_a_split_without_samples_is_refused_with_the_first_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-\*: no usable sample in 1 shards$"):
        one_shard(tmp_path, [])
    with pytest.raises(DataError, match=r"no usable sample in 1 shards; .*train-0\.tar: no caption"):
        one_shard(tmp_path, [("k.png", png())])


def test_an_unreadable_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    data = one_shard(tmp_path, [("k.png", b"not an image"), ("k.txt", b"text")])
    assert data.describe(0).captions == ["text"]
    with pytest.raises(BadSampleError, match=r"train-0\.tar: 'k': its image \(12 bytes\) cannot be read") as error:
        data[0]
    assert error.value.sample[1:3] == ("k", "unknown_format")


def test_a_text_that_broke_after_it_was_indexed_is_named(tmp_path: Path) -> None:
    data = one_shard(tmp_path, sample("k"))
    path = tmp_path / "train-0.tar"
    path.write_bytes(path.read_bytes().replace(b"a caption", b"a \xffaption"))
    for read in (data.describe, data.__getitem__):
        with pytest.raises(BadSampleError, match=r"train-0\.tar: 'k': its text is not UTF-8"):
            read(0)


def test_nothing_is_written_by_names_that_climb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMOE_CACHE_DIR")
    inside = tmp_path / "data"
    write_tar(inside / "train-0.tar", sample("../../evil") + sample(str(tmp_path / "absolute")))
    before = set(tmp_path.rglob("*"))
    data = TarShards(root=str(inside), split="train")
    assert len([data[i] for i in range(2)]) == 2
    assert set(tmp_path.rglob("*")) - before == {inside / "train-0.tar.index"}


def test_members_with_code_are_never_read(tmp_path: Path) -> None:
    """What a naive reader would unpickle: on loading it writes a file."""

    class Evil:
        def __reduce__(self) -> Any:
            return open, (str(tmp_path / "marker"), "w")

    code = pickle.dumps(Evil())
    data = one_shard(tmp_path, [*sample("a"), *((f"a.{suffix}", code) for suffix in ("pyd", "pickle", "pth", "npy"))])
    assert data[0].captions == ["a caption"]
    assert not (tmp_path / "marker").exists()


def test_other_formats_of_images(tmp_path: Path) -> None:
    import io

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "lime").save(buffer, "WEBP", lossless=True)
    data = one_shard(tmp_path, [("a.webp", buffer.getvalue()), ("a.txt", b"green")])
    assert data[0].image.getpixel((0, 0)) == (0, 255, 0)


EMOJI = {"train": 8065, "val": 333, "test_vendor": 1591, "test_identity": 1121, "test_both": 200}
QUICK = ("val", "test_both")


@pytest.mark.parametrize(
    "split", [*QUICK, *(pytest.param(split, marks=pytest.mark.slow) for split in EMOJI if split not in QUICK)]
)
def test_the_emoji_shards_hold_what_their_manifest_says(shared: Path, split: str) -> None:
    data = TarShards(root=str(shared / "data" / "emoji-captions"), split=split)
    assert (len(data), data.bad.total) == (EMOJI[split], 0)
    assert data[0].image.size == (64, 64)
    vendors = {data.describe(i).labels["vendor"] for i in range(len(data))}
    seen = {"noto", "openmoji", "blob", "emojione", "fluent3d", "fluentflat"}
    assert vendors == ({"twemoji"} if split in ("test_vendor", "test_both") else seen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "split", "size"), [("caltech-photos", "test", 1164), ("fashion-mnist-900", "train", 615)]
)
def test_other_real_shards(shared: Path, name: str, split: str, size: int) -> None:
    data = TarShards(root=str(shared / "data" / name), split=split)
    assert (len(data), data.bad.total) == (size, 0)
    assert data[size - 1].image.mode == "RGB"
