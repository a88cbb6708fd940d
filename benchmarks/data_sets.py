"""The pairs that are read: a pool of small encoded images, written as tar shards, a parquet table and a folder."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

from tqdm import tqdm

from limoe.data.scenes.synthetic import SyntheticScenes

POOL = 300  # distinct images


class Stored(NamedTuple):
    """One pair as bytes: a PNG or JPEG of some kilobytes and its caption."""

    key: str
    suffix: str
    image: bytes
    caption: str


def pool(*, image_size: int) -> list[Stored]:
    """Drawn scenes, every second one a JPEG."""
    scenes = SyntheticScenes(split="train", size=POOL, image_size=image_size, seed=0)
    found = []
    for i in tqdm(range(POOL), desc="images", leave=False, disable=None):
        image, captions, _, _ = scenes[i]
        suffix, settings = ("png", {}) if i % 2 else ("jpg", {"quality": 85})
        buffer = io.BytesIO()
        image.save(buffer, "PNG" if i % 2 else "JPEG", **settings)
        found.append(Stored("", suffix, buffer.getvalue(), captions[0]))
    return found


def pairs(images: list[Stored], *, size: int) -> Iterator[Stored]:
    """`size` pairs with keys of their own; image and caption stay together."""
    rng = Random(0)
    for i in range(size):
        yield rng.choice(images)._replace(key=f"{i:09d}")


def write_shards(folder: Path, content: list[Stored], *, size: int, shards: int) -> None:
    """`<folder>/train-*.tar` with `size` pairs: image, .txt, and .json with one label."""
    folder.mkdir(parents=True)
    stream = pairs(content, size=size)
    with tqdm(desc="shards", total=size, unit="pair", leave=False, disable=None) as bar:
        for number in range(shards):
            count = size * (number + 1) // shards - size * number // shards
            with tarfile.open(folder / f"train-{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
                for pair in (next(stream) for _ in range(count)):
                    _add(tar, f"{pair.key}.{pair.suffix}", pair.image)
                    _add(tar, f"{pair.key}.txt", pair.caption.encode())
                    _add(tar, f"{pair.key}.json", json.dumps({"kind": pair.suffix}).encode())
                    bar.update()


def link_shards(folder: Path, *, of: Path, count: int) -> None:
    """The first `count` shards of another folder, under a folder of their own."""
    folder.mkdir()
    for path in sorted(of.glob("*.tar"))[:count]:
        (folder / path.name).symlink_to(path.resolve())


def write_table(path: Path, content: list[Stored], *, size: int) -> None:
    """A parquet file with the columns key, image and caption."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(pairs(content, size=size))
    columns = {"key": [r.key for r in rows], "image": [r.image for r in rows], "caption": [r.caption for r in rows]}
    pq.write_table(pa.table(columns), path)


def write_folder(folder: Path, content: list[Stored], *, size: int) -> None:
    """KEY.jpg or KEY.png with KEY.txt beside it."""
    folder.mkdir()
    for pair in tqdm(pairs(content, size=size), desc="files", total=size, leave=False, disable=None):
        (folder / f"{pair.key}.{pair.suffix}").write_bytes(pair.image)
        (folder / f"{pair.key}.txt").write_text(pair.caption)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
