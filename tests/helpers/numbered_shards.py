"""Tar shards of numbered samples: image and caption of a sample tell its number."""

import io
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

from limoe.data.shards.stream import ShardStream
from tests.helpers.shards import Files, tar_bytes


def png(number: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def sample(number: int) -> Files:
    return [(f"{number:04}.png", png(number)), (f"{number:04}.txt", f"number {number}".encode())]


def write_tar(path: Path, files: Files) -> Path:
    path.write_bytes(tar_bytes(files, tarfile.PAX_FORMAT))
    return path


def write_shards(folder: Path, *, shards: int, each: int) -> str:
    for shard in range(shards):
        files = [member for number in range(shard * each, (shard + 1) * each) for member in sample(number)]
        write_tar(folder / f"train-{shard}.tar", files)
    return str(folder / "train-*.tar")


def stream(shards: str | list[str], **settings: Any) -> ShardStream:
    return ShardStream(**({"shards": shards, "epoch_pairs": 8, "shuffle": 1, "caption_pairs": 100} | settings))
