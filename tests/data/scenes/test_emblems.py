from functools import partial
from itertools import permutations

import numpy as np
import pytest

from limoe.data.sampler import EpochSampler
from limoe.data.scenes.emblems import COLOURS, FILLERS, OPENINGS, Emblems, name_the_thing, things, vocabulary
from limoe.data.text.tokenizers import ByteBPE
from limoe.errors import ArgumentError

emblems = partial(Emblems, split="train", size=3000, count=1000, image_size=16, seed=0)
clean = partial(emblems, repainted=0, noise=0.0)


def fields_of(pixels: np.ndarray) -> np.ndarray:
    """[4, 4, 3] the mean colour of each field of an emblem."""
    side = len(pixels) // 4
    return pixels.reshape(4, side, 4, side, 3).astype(float).mean((1, 3))


def nearest(fields: np.ndarray) -> list[int]:
    """The colours nearest to the fields, whatever their contrast: 0.7 to 1.1, and their brightness: -12 to 12."""
    shades = [(contrast, shift) for contrast in np.linspace(0.7, 1.1, 9) for shift in np.linspace(-12, 12, 5)]
    # [shades, 4, 4, 8] distance of each field to each colour in each shade
    distance = np.stack(
        [
            np.abs(fields[:, :, None] - (COLOURS - 127.5) * contrast - 127.5 - shift).sum(-1)
            for contrast, shift in shades
        ]
    )
    best = distance.min(-1).sum((1, 2)).argmin()
    return distance[best].argmin(-1).flatten().tolist()


def test_a_pair_depends_on_seed_split_and_index_alone() -> None:
    first, again, longer = emblems(), emblems(), emblems(size=5000)
    for index in (7, 3, 2999):
        assert np.array_equal(first[index].image, again[index].image)
        assert np.array_equal(first[index].image, longer[index].image)
        assert first[index][1:] == again[index][1:] == longer[index][1:]
    for other in (emblems(split="val"), emblems(split="test")):
        assert not np.array_equal(first[3].image, other[3].image)
        assert first[3].labels == other[3].labels  # the things are those of training
    assert first[3].captions != emblems(seed=1)[3].captions


@pytest.mark.parametrize("words", ["fixed", "free"])
def test_describe_tells_the_same_as_the_drawn_pair(words: str) -> None:
    data = emblems(words=words, emblem_sizes=[12, 8])
    for index in (5, 1005):
        pair = data[index]
        assert tuple(data.describe(index)) == (pair.captions, pair.labels, pair.key)


def test_an_image_shows_the_fields_of_its_thing_and_every_image_is_new() -> None:
    data = clean()
    for index in (0, 17, 999):
        first, second = (np.asarray(data[i].image) for i in (index, index + 1000))
        assert nearest(fields_of(first)) == nearest(fields_of(second)) == data.fields[index].tolist()
        assert not np.array_equal(first, second)
        assert data.describe(index).labels == data.describe(index + 1000).labels == {"thing": str(index)}


def test_at_most_as_many_fields_are_repainted_as_asked() -> None:
    data = emblems(noise=0.0, repainted=2)
    wrong = [
        sum(a != b for a, b in zip(nearest(fields_of(np.asarray(data[i].image))), data.fields[i].tolist(), strict=True))
        for i in range(200)
    ]
    # two draws of a field and a colour: both change one in about (7/8)^2 * 15/16 = 72 % of the images
    assert set(wrong) == {0, 1, 2} and 110 <= wrong.count(2) <= 175


def test_names_are_distinct_and_of_known_words() -> None:
    words = vocabulary()
    assert len({word for own in words for word in own}) == 3 * 64
    _, names = things(4096, seed=0, names="arbitrary")
    assert len(set(names)) == 4096
    assert all(word in own for name in names[:50] for word, own in zip(name.split(), words, strict=True))


def test_arbitrary_names_say_nothing_about_the_fields_and_names_by_rule_all_of_the_first_six() -> None:
    words = vocabulary()
    for rule in ("arbitrary", "rule"):
        fields, names = things(1000, seed=0, names=rule)
        told = [[own.index(word) for word, own in zip(name.split(), words, strict=True)] for name in names]
        by_rule = fields[:, 0:6:2] * 8 + fields[:, 1:6:2]
        agree = (np.array(told) == by_rule).mean()
        assert agree == 1 if rule == "rule" else agree < 0.04  # by chance 1/64


def test_a_shifted_emblem_lies_at_each_place_of_the_grid_and_nowhere_else() -> None:
    data = clean(image_size=24, emblem_sizes=[16, 12], step=8, size=400)
    found = set()
    for index in range(400):
        pixels = np.asarray(data[index].image).astype(int)
        assert pixels.shape == (24, 24, 3)
        grey = (np.ptp(pixels, axis=-1) == 0) & (np.abs(pixels[..., 0] - 127.5) <= 13)
        rows, columns = (np.flatnonzero(~grey.all(axis)) for axis in (1, 0))
        found.add((rows[0], columns[0], rows[-1] - rows[0] + 1))
    # 16 px: offsets 0 and 8; 12 px: 0 and 8 (16 would leave the image)
    assert found == {(top, left, side) for top in (0, 8) for left in (0, 8) for side in (12, 16)}


def test_fixed_captions_have_openings_but_those_of_the_test_split() -> None:
    name = emblems().names[4]
    assert emblems().describe(4).captions == [opening + name for opening in OPENINGS]
    assert emblems(split="test").describe(4).captions == [name]


def test_free_captions_have_any_order_after_up_to_three_other_words() -> None:
    data = emblems(words="free", count=1, size=500)
    captions = [data.describe(i).captions for i in range(500)]
    assert {len(own) for own in captions} == {1}
    words = [own[0].split() for own in captions]
    assert {tuple(own[-3:]) for own in words} == set(permutations(data.names[0].split()))
    assert {len(own) - 3 for own in words} == {0, 1, 2, 3}
    assert {word for own in words for word in own[:-3]} == set(FILLERS)


@pytest.mark.parametrize(("words", "longest"), [("fixed", 5), ("free", 7)])
def test_a_word_is_one_token(words: str, longest: int) -> None:
    data = emblems(words=words)
    tokenizer = ByteBPE(vocab_size=640, length=12, max_captions=100_000).fit(data.captions())
    lengths = tokenizer.encode([data.describe(i).captions[-1] for i in range(1000)])[1].sum(1)
    assert lengths.max() == longest  # and eos
    assert set(tokenizer.encode(data.names)[1].sum(1).tolist()) == {4}


def test_a_batch_of_shuffled_blocks_shows_no_thing_twice() -> None:
    sampler = EpochSampler(3000, batch_size=300, seed=0, position=lambda: (0, 0), shuffle_block=1000)
    order = [index for _, index in sampler]
    batches = [order[i : i + 300] for i in range(0, len(order), 300)]
    assert len(batches) == 9 == len(sampler) // 300  # three of each block; 100 of each are left out
    assert all(len({index % 1000 for index in batch}) == 300 for batch in batches)


@pytest.mark.parametrize(("openings", "templates"), [(False, ["{}"]), (True, [o + "{}" for o in OPENINGS[1:]])])
def test_the_task_is_to_name_the_thing_among_all(openings: bool, templates: list[str]) -> None:
    data = emblems(split="test", size=1500)
    task = name_the_thing(data, openings=openings)
    assert task.class_names == data.names and task.templates == templates
    assert list(task.labels) == [i % 1000 for i in range(1500)]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("split", "heldout"),
        ("size", 0),
        ("count", 64**3 + 1),
        ("names", "random"),
        ("words", "any"),
        ("emblem_sizes", [10]),
        ("emblem_sizes", []),
        ("emblem_sizes", [20]),
        ("step", 0),
        ("repainted", 17),
        ("noise", -1.0),
    ],
)
def test_wrong_values_are_refused_by_name(argument: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=argument):
        emblems(**{argument: value})  # type: ignore[arg-type]
