from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from limoe.data.scenes.scenes import Item, Scene, relation, scene_captions


def item(colour: str, shape: str, x: float, y: float, size: str = "small") -> Item:
    return Item(colour, shape, size, x, y, 0.12, 0.0)


RED, BLUE, BROWN = item("red", "heart", 0.27, 0.3), item("blue", "star", 0.73, 0.27), item("brown", "arrow", 0.3, 0.73)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (RED, BLUE, "left of"),
        (BLUE, RED, "right of"),
        (RED, BROWN, "above"),  # y points down
        (BROWN, RED, "below"),
    ],
)
def test_relation_follows_the_longer_axis(first: Item, second: Item, expected: str) -> None:
    assert relation(first, second) == expected


def words(items: tuple[Any, ...], rule: Callable[..., Any]) -> set[str]:
    """Every caption that 200 generators give for one scene."""
    scene = Scene(items, "black", "striped", (0.0, 0.0))
    found = set()
    for seed in range(200):
        captions = scene_captions(scene, Random(seed))
        assert 2 <= len(captions) <= 4
        found |= set(captions)
    assert all(rule(caption) for caption in found)
    return found


def test_one_item_is_told_with_size_place_and_background() -> None:
    found = words(
        (item("orange", "star", 0.74, 0.26),), lambda text: text.endswith(("right", "black", "background", "star"))
    )
    assert {
        "a small orange star at the top right",
        "a tiny orange star at the upper right",
        "an orange star on a striped black background",
        "just one orange star",
    } <= found


def test_middle_has_its_own_words() -> None:
    found = words((item("lime", "heart", 0.5, 0.5),), lambda text: "at the" not in text)
    assert "a small lime heart in the center" in found


def test_two_items_are_told_from_both_sides() -> None:
    found = words((RED, BLUE), lambda text: "above" not in text and "below" not in text)
    assert {
        "a little red heart left of a blue star",
        "a blue star to the right of a scarlet heart",
        "a red heart and a blue star",
    } <= found
    assert not any("right" in text and text.startswith("a red") for text in found)


def test_three_items_are_all_named_in_the_first_caption() -> None:
    scene = Scene((RED, BLUE, BROWN), "gray", "plain", (0.0, 0.0))
    for seed in range(20):
        first = scene_captions(scene, Random(seed))[0]
        assert all(word in first for word in ("heart", "star", "arrow"))


def test_captions_are_short() -> None:
    scene = Scene(
        (item("pink", "cross", 0.27, 0.27, "large"), item("cyan", "crescent", 0.73, 0.27)), "white", "plain", (0.0, 0.0)
    )
    longest = max(len(text.split()) for seed in range(300) for text in scene_captions(scene, Random(seed)))
    assert longest <= 14
