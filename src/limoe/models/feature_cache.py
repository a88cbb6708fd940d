"""Features of images that a frozen network has seen before, kept in files."""

import hashlib
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from limoe.files import replaced

_DIGEST = 16  # bytes that stand for an image: two of 10^12 share them with probability 10^-15
_ROWS_PER_FILE = 1024

Encode = Callable[[Float[Tensor, "B 3 h w"]], Float[Tensor, "B D"]]


class FeatureCache:
    """Features by image. The key is a hash of the pixels, so any transform is right (a random one finds nothing), and
    validation, parts of a batch and other data sets share entries.

    Files are memory-mapped and never changed: each holds up to 1,024 rows, features and keys beside each other, and
    appears at once, so several processes can share a folder. The folder's name is a hash of the network's weights.

    Args:
        folder: where the folder of this network lies.
        network: the frozen network.
    """

    def __init__(self, folder: Path, network: nn.Module) -> None:
        self.folder = folder / weights_hash(network)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[bytes, np.ndarray] = {}
        self._new: dict[bytes, np.ndarray] = {}
        for key_file in sorted(self.folder.glob("*.keys.npy")):
            feature_file = key_file.with_name(key_file.name.replace(".keys.", ".features."))
            features = np.load(feature_file, mmap_mode="r")
            for key, row in zip(np.load(key_file), features, strict=True):
                self._known[key.tobytes()] = row
        weakref.finalize(self, _write, self.folder, self._new)

    def __len__(self) -> int:
        return len(self._known)

    def __call__(self, images: Float[Tensor, "B 3 h w"], encode: Encode) -> Float[Tensor, "B D"]:
        """`encode(images)` in the type of the images, computed for images that are new."""
        keys = _keys(images)
        missing = [i for i, key in enumerate(keys) if key not in self._known]
        if missing:
            self._add([keys[i] for i in missing], encode(images[missing]))
        rows = torch.from_numpy(np.stack([self._known[key] for key in keys]))
        return rows.to(images.device, images.dtype)

    def _add(self, keys: list[bytes], features: Float[Tensor, "B D"]) -> None:
        rows = features.float().cpu().numpy()
        for key, row in zip(keys, rows, strict=True):
            self._known[key] = self._new[key] = row.copy()
        if len(self._new) >= _ROWS_PER_FILE:
            _write(self.folder, self._new)


def weights_hash(network: nn.Module) -> str:
    """16 hex digits of all parameters and buffers."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in network.state_dict().items():
        digest.update(f"{name}{tuple(value.shape)}".encode())
        if value.ndim == 0:
            digest.update(str(value).encode())
            continue
        data = value.detach().cpu().contiguous().view(torch.uint8)
        digest.update(data.numpy().data)
    return digest.hexdigest()


def _keys(images: Float[Tensor, "B 3 h w"]) -> list[bytes]:
    """One per image, of its pixels and of the precision that the features are computed in."""
    kind = images.device.type
    precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else images.dtype
    name = str(precision).encode()
    pixels = images.detach().float().cpu().contiguous().numpy()
    return [hashlib.blake2b(image.data, digest_size=_DIGEST, key=name).digest() for image in pixels]


def _write(folder: Path, new: dict[bytes, np.ndarray]) -> None:
    """A file of features, then its keys, which make it count."""
    if not new:
        return
    name = uuid.uuid4().hex
    keys = np.frombuffer(b"".join(new), dtype=np.uint8).reshape(-1, _DIGEST)
    for kind, content in (("features", np.stack([*new.values()])), ("keys", keys)):
        with replaced(folder / f"{name}.{kind}.npy") as file:
            np.save(file, content)
    new.clear()
