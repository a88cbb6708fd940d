"""Things that have to be remembered: each has an emblem of coloured fields and a name of three words.

With arbitrary names nothing but memory can name an emblem, and since every image is drawn anew there is nothing to
overfit: what limits accuracy is how many things the model can hold. With names by rule no memory is needed.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import cache
from random import Random

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from limoe.data.pairs import DescribedPairs, Description
from limoe.data.tasks.factories import zero_shot
from limoe.data.tasks.kinds import PromptSource, ZeroShotTask
from limoe.data.text.prompts import ClassList
from limoe.errors import require_argument
from limoe.types import Pair

SPLITS = ("train", "val", "test")
COLOURS = np.array(
    [
        (220, 40, 40),
        (40, 160, 60),
        (50, 80, 220),
        (240, 210, 50),
        (20, 20, 20),
        (245, 245, 245),
        (240, 130, 30),
        (140, 60, 170),
    ],
    dtype=np.float32,
)
GRID = 4  # fields per side of an emblem
FIELDS = GRID * GRID
WORDS = 64  # words to choose from, at each place of a name
PLACES = 3  # words per name
OPENINGS = ("", "the ", "a ", "our ", "see ")  # of captions with the words in order
FILLERS = ("the", "a", "our", "see", "this", "one", "here", "look")  # before words in any order
MOST_FILLERS = 3
_GREY = 127.5
_NOISE_LENGTH = 1 << 20  # normal numbers, of which every image takes a slice: drawing them anew would take longest


class Emblems(DescribedPairs):
    """`size` images of `count` things, each a pure function of (seed, split, index); the thing is `index % count`.

    An image shows the 4 x 4 fields of its thing, of which `repainted` have a random colour, under a random contrast
    and brightness, with noise. All splits show the same things; the images differ. Captions of the split "test" are
    bare names where `words` is "fixed". `labels["thing"]` is the number of the thing.

    Args:
        split: "train", "val" or "test".
        size: images.
        count: things, at most 64^3.
        image_size: side of the image in pixels.
        seed: of things and images.
        names: "arbitrary", or "rule": each word of a name tells the colours of two fields.
        words: "fixed" (in order, after at most one opening), or "free": in any order, after 0 to 3 other words.
        emblem_sizes: sides of the emblem in pixels, of which each image draws one; null = the side of the image.
        step: pixels between the places in the image where an emblem may lie; the rest of the image is grey.
        repainted: fields that get a random colour (the old one in one of eight cases).
        noise: standard deviation, in levels of 0 to 255.

    Raises:
        ArgumentError: a value breaks its rule; an emblem is larger than the image or its side no multiple of 4.
    """

    def __init__(
        self,
        *,
        split: str,
        size: int,
        count: int,
        image_size: int,
        seed: int,
        names: str = "arbitrary",
        words: str = "fixed",
        emblem_sizes: Sequence[int] | None = None,
        step: int = 8,
        repainted: int = 2,
        noise: float = 12.0,
    ) -> None:
        require_argument(split in SPLITS, "split", f"one of {', '.join(SPLITS)}", split)
        require_argument(size > 0, "size", "> 0 (images)", size)
        require_argument(1 <= count <= WORDS**PLACES, "count", f"1 to {WORDS**PLACES} (things)", count)
        require_argument(names in ("arbitrary", "rule"), "names", "arbitrary or rule", names)
        require_argument(words in ("fixed", "free"), "words", "fixed or free", words)
        sides = [image_size] if emblem_sizes is None else list(emblem_sizes)
        are_sides = len(sides) > 0 and all(side > 0 and side % GRID == 0 for side in sides)
        require_argument(are_sides, "emblem_sizes", f"multiples of {GRID} (pixels)", sides)
        require_argument(max(sides) <= image_size, "emblem_sizes", f"<= image_size={image_size}", sides)
        require_argument(step >= 1, "step", ">= 1 (pixels)", step)
        require_argument(0 <= repainted <= FIELDS, "repainted", f"0 to {FIELDS} (fields)", repainted)
        require_argument(noise >= 0, "noise", ">= 0", noise)
        self.split = split
        self.size = size
        self.count = count
        self.image_size = image_size
        self.seed = seed
        self.words = words
        self.step = step
        self.repainted = repainted
        self.noise = noise
        self.fields, self.names = things(count, seed=seed, names=names)
        self._layouts = [field_of_pixel(side) for side in sides]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Pair:
        rng = self._random(index)
        description = self._describe(index, rng)
        return Pair(Image.fromarray(self._draw(index % self.count, rng)), *description)

    def describe(self, index: int) -> Description:
        return self._describe(index, self._random(index))

    def captions(self) -> Iterator[str]:
        """Every name after every opening; with free words every word at either end as well."""
        for name in self.names:
            words = name.split()
            orders = [words] if self.words == "fixed" else list(itertools.permutations(words))
            for order in orders:
                for opening in OPENINGS if self.words == "fixed" else ("", *(f"{word} " for word in FILLERS)):
                    yield opening + " ".join(order)

    def _random(self, index: int) -> Random:
        if not 0 <= index < self.size:
            raise IndexError(index)
        return Random(f"{self.seed}/{self.split}/{index}")

    def _describe(self, index: int, rng: Random) -> Description:
        thing = index % self.count
        name = self.names[thing]
        if self.words == "free":
            fillers = rng.choices(FILLERS, k=rng.randint(0, MOST_FILLERS))
            captions = [" ".join([*fillers, *rng.sample(name.split(), PLACES)])]
        elif self.split == "test":
            captions = [name]
        else:
            captions = [opening + name for opening in OPENINGS]
        return Description(captions, {"thing": str(thing)}, f"{self.split}-{index:07d}")

    def _draw(self, thing: int, rng: Random) -> UInt8[np.ndarray, "h w 3"]:
        """The levels 0 to 255 of one image."""
        fields = self.fields[thing].copy()
        for _ in range(self.repainted):
            fields[rng.randrange(FIELDS)] = rng.randrange(len(COLOURS))

        # [8, 3] the colours under the contrast and brightness of this image, then [side, side, 3]
        brightness = rng.uniform(-12, 12)
        colours = (COLOURS - _GREY) * rng.uniform(0.7, 1.1) + (_GREY + brightness)
        layout = rng.choice(self._layouts)
        pixels = colours[fields[layout]]

        side = len(layout)
        if side < self.image_size:
            canvas = np.full((self.image_size, self.image_size, 3), _GREY + brightness, dtype=np.float32)
            places = range(0, self.image_size - side + 1, self.step)
            top, left = rng.choice(places), rng.choice(places)
            canvas[top : top + side, left : left + side] = pixels
            pixels = canvas
        start = rng.randrange(_NOISE_LENGTH - pixels.size)
        pixels += self.noise * _noise()[start : start + pixels.size].reshape(pixels.shape)
        return pixels.clip(0, 255).astype(np.uint8)


@cache
def vocabulary() -> list[list[str]]:
    """64 words of four letters for each place of a name, all distinct."""
    syllables = ["".join(letters) for letters in itertools.product("bdfgklmnprstvz", "aeiou")]
    possible = [first + second for first, second in itertools.product(syllables, syllables)]
    chosen = np.random.default_rng(12345).choice(len(possible), WORDS * PLACES, replace=False)
    return [[possible[i] for i in chosen[place::PLACES]] for place in range(PLACES)]


@cache
def things(count: int, *, seed: int, names: str) -> tuple[Int[np.ndarray, "count fields"], list[str]]:
    """Colours of the fields of `count` things, and their names, all distinct.

    By rule the word at place p is number 8 * a + b of its 64 for the colours a and b of the fields 2p and 2p + 1.
    """
    rng = np.random.default_rng(seed)
    fields = rng.integers(0, len(COLOURS), (count, FIELDS))
    codes = rng.choice(WORDS**PLACES, count, replace=False)
    numbers = np.stack([codes // WORDS**place % WORDS for place in range(PLACES)], axis=1)  # [count, places]
    if names == "rule":
        for place in range(PLACES):
            fields[:, 2 * place] = numbers[:, place] // len(COLOURS)
            fields[:, 2 * place + 1] = numbers[:, place] % len(COLOURS)
    words = vocabulary()
    return fields, [" ".join(words[place][row[place]] for place in range(PLACES)) for row in numbers.tolist()]


def field_of_pixel(side: int) -> Int[np.ndarray, "side side"]:
    """The number of the field that each pixel of an emblem belongs to."""
    row = np.arange(side) * GRID // side
    return row[:, None] * GRID + row


@cache
def _noise() -> Float[np.ndarray, "n"]:
    return np.random.default_rng(54321).standard_normal(_NOISE_LENGTH, dtype=np.float32)


def name_the_thing(images: Emblems, *, openings: bool = False) -> ZeroShotTask:
    """Which of all things does an image show? Prompts are the bare names, or the means of four openings."""
    ids = [str(number) for number in range(images.count)]
    templates = [f"{opening}{{}}" for opening in OPENINGS if opening] if openings else ["{}"]
    classes = ClassList("thing", ids, images.names, templates, PromptSource("emblems"))
    return zero_shot(images, classes=classes)
