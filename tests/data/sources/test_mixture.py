from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from limoe.data.bad_samples import BadSample, BadSamples, LeavesOutBad
from limoe.data.pairs import DescribedPairs, Description
from limoe.data.sources.mixture import Mixture
from limoe.errors import DataError
from limoe.types import Pair


class Numbers(LeavesOutBad):
    """Pairs `0`, `1`, ... with one label; the image's colour is the number."""

    def __init__(self, size: int, bad: int = 0) -> None:
        self.size = size
        self.bad = BadSamples()
        for number in range(bad):
            self.bad.add(BadSample("numbers", str(number), "no_caption", "none"))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Pair:
        return Pair(Image.new("RGB", (1, 1), (index, 0, 0)), *self.describe(index))

    def describe(self, index: int) -> Description:
        return Description([f"number {index}"], {"parity": str(index % 2), "source": "own"}, str(index))

    def captions(self) -> Iterator[Any]:
        yield from (f"number {index}" for index in range(self.size))


def mixture(lengths: dict[str, int], **settings: dict[str, float] | int) -> Mixture:
    return Mixture(sources={name: Numbers(length) for name, length in lengths.items()}, **settings)


def places(mixed: Mixture) -> dict[str, list[int]]:
    """Indices by source, in the order of the places."""
    found: dict[str, list[int]] = {}
    for place in range(len(mixed)):
        name, index = mixed.locate(place)
        found.setdefault(name, []).append(index)
    return found


def test_without_weights_every_pair_occurs_once() -> None:
    mixed = mixture({"a": 3, "b": 2})
    assert isinstance(mixed, DescribedPairs)
    assert places(mixed) == {"a": [0, 1, 2], "b": [0, 1]}
    assert [mixed.describe(i).key for i in range(5)] == ["a/0", "a/1", "a/2", "b/0", "b/1"]
    assert list(mixed.captions()) == ["number 0", "number 1", "number 2", "number 0", "number 1"]


def test_pairs_carry_the_name_of_their_source() -> None:
    mixed = mixture({"a": 3, "b": 2})
    pair = mixed[4]
    assert pair[1:] == (["number 1"], {"parity": "1", "source": "b"}, "b/1") == tuple(mixed.describe(4))
    assert pair.image.getpixel((0, 0)) == (1, 0, 0)
    assert mixed[-1].key == "b/1"
    with pytest.raises(IndexError):
        mixed[5]


def test_an_epoch_with_weights_shows_every_pair() -> None:
    # shares 1/4 and 3/4; a needs 6 / (1/4) = 24 places, b 5 / (3/4) = 6.7: the epoch has 24, so 6 and 18
    found = places(mixture({"a": 6, "b": 5}, weights={"a": 0.5, "b": 1.5}))
    assert found["a"] == [0, 1, 2, 3, 4, 5]
    # 18 places: three whole passes and three more at 0 * 5 / 3, 1 * 5 / 3 and 2 * 5 / 3, rounded down
    assert found["b"] == [*range(5)] * 3 + [0, 1, 3]


def test_no_pair_occurs_twice_in_one_pass() -> None:
    mixed = mixture({"a": 7, "b": 31, "c": 4}, weights={"a": 0.2, "b": 0.5, "c": 0.3}, size=101)
    assert len(mixed) == 101
    for name, found in places(mixed).items():
        length = len(mixed.sources[name])
        assert all(len(set(found[i : i + length])) == len(found[i : i + length]) for i in range(0, len(found), length))
        assert max(Counter(found).values()) - min(Counter(found).values()) <= 1


def test_an_epoch_of_its_own_size_spreads_over_a_source() -> None:
    # 10 places by length 12 : 8 are 6 and 4; 12 pairs at 6 places: every second one, 8 at 4 too
    assert places(mixture({"a": 12, "b": 8}, size=10)) == {"a": [0, 2, 4, 6, 8, 10], "b": [0, 2, 4, 6]}


def test_counts_are_whole_and_sum_to_the_size() -> None:
    # of 10: 10/3 each, rounded down 3 + 3 + 3, and the one left goes to the first
    assert mixture({"a": 9, "b": 9, "c": 9}, size=10).counts == {"a": 4, "b": 3, "c": 3}
    # of 5: 0.5, 1.5 and 3; the two remainders of one half are equal, and the first gets the place
    assert mixture({"a": 9, "b": 9, "c": 9}, weights={"a": 1, "b": 3, "c": 6}, size=5).counts == {
        "a": 1,
        "b": 1,
        "c": 3,
    }


def test_what_the_sources_left_out_is_added_up() -> None:
    mixed = Mixture(sources={"a": Numbers(2, bad=1), "b": Numbers(2, bad=2), "c": mixture({"d": 1})})
    assert mixed.bad.total == 3
    assert mixed.describe(4).key == "c/d/0"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"a": 1}}, "weights must be one each for a, b, got {'a': 1}"),
        ({"weights": {"a": 1, "b": 0}}, r"weights must be > 0 \(leave out a source to drop it\)"),
        ({"weights": {"a": 1, "b": float("nan")}}, "weights must be > 0"),
        ({"size": 0}, r"size must be > 0 \(pairs per epoch\), or null, got 0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, dict[str, float] | int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixture({"a": 3, "b": 2}, **settings)


def test_sources_must_hold_pairs() -> None:
    with pytest.raises(ValueError, match="sources must be at least one"):
        Mixture(sources={})
    with pytest.raises(DataError, match="source b of a mixture is empty"):
        mixture({"a": 3, "b": 0})
