"""Small tar shards, written by the standard library: the oracle for what we read."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

Files = list[tuple[str, bytes]]


def png(colour: str = "red", size: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def tar_bytes(files: Files, kind: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_tar(path: Path, files: Files) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(files))
    return path


def sample(
    key: str,
    *,
    colour: str = "red",
    caption: str = "a caption",
    fields: dict[str, Any] | None = None,
    suffix: str = "png",
) -> Files:
    files = [(f"{key}.{suffix}", png(colour)), (f"{key}.txt", caption.encode())]
    return files if fields is None else [*files, (f"{key}.json", json.dumps(fields).encode())]


def samples(*keys: str) -> Files:
    return [file for key in keys for file in sample(key)]
