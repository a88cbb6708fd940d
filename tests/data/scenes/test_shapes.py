from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest

from limoe.data.scenes.shapes import COLOURS, HELD_OUT_COMBOS, SHAPES, TEXTURES, TRAIN_COMBOS, texture


def test_held_out_combinations_leave_every_colour_and_shape_in_training() -> None:
    assert len(HELD_OUT_COMBOS) == 20
    assert set(HELD_OUT_COMBOS) | set(TRAIN_COMBOS) == set(product(COLOURS, SHAPES))
    assert not set(HELD_OUT_COMBOS) & set(TRAIN_COMBOS)
    # 100 combinations, 20 held out, evenly: 2 of the 10 of each colour and of each shape.
    assert set(Counter(colour for colour, _ in HELD_OUT_COMBOS).values()) == {2}
    assert set(Counter(shape for _, shape in HELD_OUT_COMBOS).values()) == {2}


@pytest.mark.parametrize("name", SHAPES)
def test_outlines_have_about_the_size_of_the_unit_circle(name: str) -> None:
    radii = np.linalg.norm(SHAPES[name], axis=1)
    assert 0.85 < radii.max() < 1.2


def test_outlines_enclose_different_areas_where_known() -> None:
    def area(points: Any) -> Any:  # shoelace formula
        x, y = points.T
        return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2

    # cross: two bars of 2 x 0.64 minus the square of 0.64 x 0.64 that they share
    assert area(SHAPES["cross"]) == pytest.approx(2 * 2 * 0.64 - 0.64**2)
    # square with half diagonal 1.1: side 1.1 * sqrt(2)
    assert area(SHAPES["square"]) == pytest.approx(2 * 1.1**2)
    assert area(SHAPES["diamond"]) == pytest.approx(2 * 1.1 * 0.7)


@pytest.mark.parametrize("name", TEXTURES)
def test_textures_stay_in_range_and_only_plain_is_flat(name: str) -> None:
    pattern = texture(name, size=64)
    assert pattern.shape == (64, 64)
    assert np.abs(pattern).max() <= 1
    assert (pattern.std() == 0) == (name == "plain")
