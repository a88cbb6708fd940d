import json
import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

from limoe.data.bad_samples import BadSample
from limoe.data.shards.stream import ShardStream
from limoe.errors import DataError
from limoe.types import Pair
from tests.helpers.numbered_shards import png, sample, stream, write_shards, write_tar


def first(source: ShardStream, count: int, *, seed: int = 0, part: int = 0, parts: int = 1) -> list[BadSample | Pair]:
    return list(islice(source.pairs(rng=Random(seed), part=part, parts=parts), count))


def keys(pairs: list[Pair]) -> list[str]:
    return [pair.key for pair in pairs]


def test_each_pass_brings_every_sample_once_in_a_new_order(tmp_path: Path) -> None:
    source = stream(write_shards(tmp_path, shards=4, each=3))
    pairs = first(source, 36)
    passes = [keys(pairs[i : i + 12]) for i in (0, 12, 24)]
    assert [sorted(one) for one in passes] == [[f"{number:04}" for number in range(12)]] * 3
    assert passes[0] != passes[1] != passes[2]
    for pair in pairs:
        assert pair.captions == [f"number {int(pair.key)}"]
        assert pair.image.getpixel((0, 0)) == (int(pair.key), 0, 0)


def test_the_buffer_mixes_the_shards_and_the_seed_decides(tmp_path: Path) -> None:
    source = stream(write_shards(tmp_path, shards=4, each=10), shuffle=40)
    once, again, other = (keys(first(source, 40, seed=seed)) for seed in (1, 1, 2))
    assert once == again != other
    assert len({key[:3] for key in once[:10]}) > 1  # shard k holds the keys 00k0 to 00k9


def test_parts_share_the_shards(tmp_path: Path) -> None:
    source = stream(write_shards(tmp_path, shards=5, each=2))
    found = [set(keys(first(source, 20, part=part, parts=2))) for part in range(2)]
    assert sorted(map(len, found)) == [4, 6]
    assert found[0].isdisjoint(found[1])


def test_captions_are_those_of_the_first_pairs(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path, shards=2, each=3)
    write_tar(tmp_path / "train-0.tar", [("a.png", png()), *sample(1), ("b.png", b"broken"), ("b.txt", b"b")])
    assert list(stream(pattern, caption_pairs=3).captions()) == ["number 1", "b", "number 3"]
    assert len(list(stream(pattern).captions())) == 5


def test_names_and_labels_as_in_the_indexed_source(tmp_path: Path) -> None:
    fields = json.dumps({"captions": ["one", "two"], "group": "g"}).encode()
    files = [("./x/1.PNG", png(7)), ("x/1.TXT", b"three"), ("._x.png", b""), ("x/2.5.png", png())]
    path = write_tar(tmp_path / "t.tar", [*files, ("y/2.png", png(9)), ("y/2.json", fields), ("y/2.cls", b"3")])
    assert [pair[1:] for pair in first(stream(str(path)), 2)] == [
        (["three"], {}, "x/1"),
        (["one", "two"], {"group": "g"}, "y/2"),
    ]


def test_bad_samples_and_shards_are_told_and_passed_over(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        [
            ("0.png", b"broken"), ("0.txt", b"x"),
            ("1.txt", b"x"),
            ("2.png", png()), ("2.txt", b" "),
            *sample(3), *sample(3),
            *sample(4),
        ],
    )  # fmt: skip
    (tmp_path / "b.tar").write_bytes(b"not a tar" * 100)
    (tmp_path / "c.tar").write_bytes(
        write_tar(tmp_path / "whole", [*sample(5), *sample(6)]).read_bytes()[:2600]
    )  # in an image
    source = stream(str(tmp_path / "*.tar"))
    found = first(source, 40)
    bad = {(one.place.rpartition("/")[2], one.key, one.kind) for one in found if isinstance(one, BadSample)}
    assert {pair.key for pair in found if not isinstance(pair, BadSample)} == {"0003", "0004", "0005"}
    assert bad == {
        ("a.tar", "0", "unknown_format"),
        ("a.tar", "1", "no_image"),
        ("a.tar", "2", "no_caption"),
        ("a.tar", "", "damaged_shard"),  # the member that comes twice
        ("b.tar", "", "damaged_shard"),
        ("c.tar", "", "damaged_shard"),
    }


class Trap:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.marker, "w"))


def test_pickles_are_never_loaded_and_nothing_is_written(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    trap = pickle.dumps(Trap(str(marker)))
    files = [("0.png", png()), ("0.txt", b"x"), *((f"0.{suffix}", trap) for suffix in ("pyd", "pickle", "pth", "pt"))]
    path = write_tar(tmp_path / "t.tar", [*files, ("../../evil.png", png()), ("../../evil.txt", b"x")])
    assert keys(first(stream(str(path)), 2)) == ["0", "../../evil"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "place", ["pipe:touch marker", "PIPE: x", "file:///x.tar", "s3://x", "hf://x", "ftp://x/y.tar"]
)
def test_only_paths_and_http_are_opened(place: str) -> None:
    with pytest.raises(ValueError, match=r"^shards must be local paths or http\(s\) URLs, got "):
        stream(["http://host/a.tar", place])


def test_shards_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.shards: no file .*/nothing-\*\.tar; set data\.shards"):
        stream(str(tmp_path / "nothing-*.tar"))
    for place in ("-", "| touch marker"):
        with pytest.raises(DataError, match=r"data\.shards: no file"):
            stream(place)


def test_a_row_of_numbers_is_written_short(tmp_path: Path) -> None:
    write_shards(tmp_path, shards=3, each=1)
    assert [path[-5:] for path in stream(str(tmp_path / "train-{0..2}.tar")).shards] == ["0.tar", "1.tar", "2.tar"]
    assert stream("https://host/a-{08..10}.tar").shards == [f"https://host/a-{n}.tar" for n in ("08", "09", "10")]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


def test_shards_come_over_http(tmp_path: Path) -> None:
    write_shards(tmp_path, shards=2, each=2)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        host = f"http://127.0.0.1:{server.server_port}"
        found = first(stream([f"{host}/train-{{0..1}}.tar", f"{host}/missing.tar"]), 11)
    finally:
        server.shutdown()
        server.server_close()
    assert {pair.key for pair in found if not isinstance(pair, BadSample)} == {f"{n:04}" for n in range(4)}
    (bad,) = {one for one in found if isinstance(one, BadSample)}
    assert (bad.place, bad.kind) == (f"{host}/missing.tar", "damaged_shard")
    assert "404" in bad.reason


def test_a_stream_without_samples_ends(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", [("readme", b"x")])
    with pytest.raises(DataError, match=r"no sample in 1 shards, such as .*t\.tar$"):
        first(stream(str(path)), 1)
    path.write_bytes(b"x" * 600)
    with pytest.raises(DataError, match=r"no sample in 1 shards, such as .*t\.tar; .*t\.tar: ReadError"):
        first(stream(str(path)), 1)


@pytest.mark.parametrize("key", ["epoch_pairs", "shuffle", "caption_pairs"])
def test_numbers_are_positive(key: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key} must be > 0"):
        stream("http://host/a.tar", **{key: 0})
