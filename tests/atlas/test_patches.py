"""The patches with the largest gates: in order, different ones, not all of one image."""

import numpy as np
import torch

from limoe.atlas.patches import PatchGrid, top_patches


def numbered(images: int, *, side: int = 2, size: int = 3) -> torch.Tensor:
    """Every patch has a colour of its own: its number among all patches."""
    number = torch.arange(images * side * side, dtype=torch.uint8).view(images, side, side)
    pixels = number.repeat_interleave(size, 1).repeat_interleave(size, 2)
    return pixels[..., None].expand(-1, -1, -1, 3).contiguous()


def places(patches: list[dict]) -> list[tuple[int, int, int]]:
    return [(p["image"], p["row"], p["column"]) for p in patches]


def test_images_are_cut_row_by_row() -> None:
    grid = PatchGrid(numbered(2), tokens=4)
    assert (grid.side, grid.pixels.shape) == (2, (2, 4, 3, 3, 3))
    assert (grid.pixels == np.arange(8).reshape(2, 4, 1, 1, 1)).all()
    assert (grid.of({"image": 1, "row": 1, "column": 0}) == 6).all()


def test_largest_gates_first_and_two_of_a_image_at_most() -> None:
    gates = torch.tensor([[0.9, 0.8, 0.7, 0.0], [0.0, 0.5, 0.6, 0.0]])
    found = top_patches(gates, PatchGrid(numbered(2), tokens=4), count=3)
    assert places(found) == [(0, 0, 0), (0, 0, 1), (1, 1, 0)]
    assert [round(p["gate"], 3) for p in found] == [0.9, 0.8, 0.6]  # not the third of image 0
    assert len(top_patches(gates, PatchGrid(numbered(2), tokens=4), count=9)) == 4


def test_equal_patches_count_as_one_and_say_how_many_they_are() -> None:
    images = numbered(3)
    images[1:] = images[0]  # three equal images
    gates = torch.tensor([[0.1, 0.0, 0.0, 0.3], [0.2, 0.0, 0.0, 0.4], [0.5, 0.0, 0.0, 0.0]])
    found = top_patches(gates, PatchGrid(images, tokens=4), count=9)
    assert places(found) == [(2, 0, 0), (1, 1, 1)] and [p["copies"] for p in found] == [3, 2]


def test_an_expert_without_patches_has_none() -> None:
    assert top_patches(torch.zeros(2, 4), PatchGrid(numbered(2), tokens=4), count=3) == []


def test_equal_gates_keep_the_order_of_the_images() -> None:
    found = top_patches(torch.ones(2, 4), PatchGrid(numbered(2), tokens=4), count=9)
    assert places(found) == [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)]
