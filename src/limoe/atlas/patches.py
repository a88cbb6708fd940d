"""The patches with the largest gates at an expert."""

import math
from collections import Counter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

PER_IMAGE = 2  # patches of one image in a list at most


class PatchGrid:
    """Images cut into the patches that are a model's image tokens, row by row; equal patches have equal ids."""

    def __init__(self, images: UInt8[Tensor, "B h w 3"], *, tokens: int) -> None:
        self.side = math.isqrt(tokens)
        size = images.shape[1] // self.side
        # [B, row, column, p, p, 3], then [B, n, p, p, 3]
        cut = images.unflatten(2, (self.side, size)).unflatten(1, (self.side, size))
        cut = cut.transpose(2, 3)
        self.pixels: UInt8[np.ndarray, "B n p p 3"] = cut.flatten(1, 2).contiguous().numpy()
        numbers: dict[bytes, int] = {}
        ids = [numbers.setdefault(p.tobytes(), len(numbers)) for image in self.pixels for p in image]
        self.ids: Int[Tensor, "B n"] = torch.tensor(ids).view(len(images), tokens)

    def of(self, patch: dict[str, Any]) -> UInt8[np.ndarray, "p p 3"]:
        """Pixels of one entry of `top_patches`."""
        return self.pixels[patch["image"], patch["row"] * self.side + patch["column"]]


def top_patches(gates: Float[Tensor, "B n"], grid: PatchGrid, *, count: int) -> list[dict[str, Any]]:
    """Up to `count` different patches in decreasing order of the gate (ties: the order of the images).

    `gates` are those of one expert, 0 for a patch it does not compute. At most `PER_IMAGE` of an image; patches with
    the same pixels are listed once, `copies` counts them. `image` is the pair's number; row and column count patches.
    """
    by_gate = gates.flatten().argsort(descending=True, stable=True)
    order: list[int] = by_gate[gates.flatten()[by_gate] > 0].tolist()
    ids = grid.ids.flatten().tolist()
    tokens = gates.shape[1]
    copies = Counter(ids[place] for place in order)
    found: dict[int, dict[str, Any]] = {}
    of_image: Counter[int] = Counter()
    for place in order:
        image, position = divmod(place, tokens)
        if ids[place] in found or of_image[image] == PER_IMAGE:
            continue
        row, column = divmod(position, grid.side)
        where = {"image": image, "row": row, "column": column}
        found[ids[place]] = {**where, "gate": gates[image, position].item(), "copies": copies[ids[place]]}
        of_image[image] += 1
        if len(found) == count:
            break
    return list(found.values())
