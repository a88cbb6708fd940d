import numpy as np
import pytest

from limoe.data.scenes.scenes import Item, Scene
from limoe.data.scenes.shapes import BACKGROUNDS, COLOURS, HELD_OUT_COMBOS
from limoe.data.scenes.synthetic import SyntheticScenes, draw_scene

HELD_OUT = {" ".join(combo) for combo in HELD_OUT_COMBOS}


def scenes(split: str = "train", *, size: int = 300, seed: int = 0, **settings: int) -> SyntheticScenes:
    return SyntheticScenes(split=split, size=size, image_size=32, seed=seed, **settings)


def test_a_scene_depends_on_seed_split_and_index_alone() -> None:
    first, again, longer = scenes(), scenes(), scenes(size=1000)
    for index in (7, 3, 299):
        assert np.array_equal(first[index].image, again[index].image)
        assert first[index][1:] == again[index][1:] == longer[index][1:]
    assert first[3].captions != scenes(seed=1)[3].captions
    assert first[3].captions != scenes("val")[3].captions


def test_describe_tells_the_same_as_the_drawn_pair() -> None:
    data = scenes()
    pair = data[5]
    assert tuple(data.describe(5)) == (pair.captions, pair.labels, pair.key)
    assert list(data.captions())[: len(data.describe(0).captions)] == data.describe(0).captions


@pytest.mark.parametrize("split", ["train", "val"])
def test_no_held_out_combination_is_drawn_in_training_or_validation(split: str) -> None:
    data = scenes(split, size=1000)
    drawn = {f"{item.colour} {item.shape}" for i in range(1000) for item in data._scene(i)[0].items}
    assert len(drawn) == 80
    assert not drawn & HELD_OUT


def test_the_main_shape_of_heldout_is_a_held_out_combination_and_no_other_is() -> None:
    data = scenes("heldout", size=500)
    assert {data.describe(i).labels["combo"] for i in range(500)} == HELD_OUT
    others = {f"{item.colour} {item.shape}" for i in range(500) for item in data._scene(i)[0].items[1:]}
    assert others
    assert not others & HELD_OUT


def test_max_items_bounds_the_number_of_shapes() -> None:
    assert {len(scenes(max_items=1)._scene(i)[0].items) for i in range(100)} == {1}
    assert {len(scenes(max_items=3)._scene(i)[0].items) for i in range(100)} == {1, 2, 3}


def test_shapes_are_drawn_where_and_as_described() -> None:
    item = Item("red", "square", "large", 0.25, 0.75, 0.2, 0.0)
    image = draw_scene(Scene((item,), "white", "plain", (0.3, 0.6)), image_size=40)
    assert image.size == (40, 40)
    assert image.mode == "RGB"
    # The square has half a side of 0.2 * 1.1 / sqrt(2) = 0.156 of 40 pixels = 6.2 pixels around (10, 30).
    for x, y in ((10, 30), (5, 30), (15, 30), (10, 25), (10, 35)):
        assert image.getpixel((x, y)) == COLOURS["red"]
    for x, y in ((2, 30), (18, 30), (10, 22), (10, 38), (30, 10)):
        assert image.getpixel((x, y)) == BACKGROUNDS["white"]


def test_a_ring_shows_the_background_inside() -> None:
    item = Item("blue", "ring", "large", 0.5, 0.5, 0.3, 0.0)
    image = draw_scene(Scene((item,), "black", "plain", (0.0, 0.0)), image_size=40)
    assert image.getpixel((20, 20)) == BACKGROUNDS["black"]
    assert image.getpixel((20, 11)) == COLOURS["blue"]  # 9 pixels from the centre, between 0.55 * 12 and 12


def test_an_index_outside_ends_iteration() -> None:
    with pytest.raises(IndexError):
        scenes(size=3)[3]
    assert len(list(scenes(size=3))) == 3  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "test"}, "split must be one of train, val, heldout, got 'test'"),
        ({"size": 0}, "size must be > 0 (scenes), got 0"),
        ({"max_items": 4}, "max_items must be 1, 2 or 3 (shapes per scene), got 4"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, int | str], message: str) -> None:
    with pytest.raises(ValueError) as error:
        scenes(**settings)
    assert str(error.value) == message
