"""Descriptions of synthetic scenes, and the grammar of their captions."""

from dataclasses import dataclass
from random import Random

SYNONYMS: dict[str, tuple[str, ...]] = {
    "red": ("red", "scarlet"),
    "yellow": ("yellow", "golden"),
    "cyan": ("cyan", "turquoise"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
    "gray": ("gray", "grey"),
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "diamond": ("diamond", "rhombus"),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
    "crescent": ("crescent", "moon"),
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "top left": ("top left", "upper left"),
    "top right": ("top right", "upper right"),
    "bottom left": ("bottom left", "lower left"),
    "bottom right": ("bottom right", "lower right"),
}
THIRDS = (0.27, 0.5, 0.73)
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")


@dataclass(frozen=True)
class Item:
    """One shape. Centre and radius are fractions of the image's side, `angle` is in radians."""

    colour: str
    shape: str
    size: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """Content of one image; `items[0]` is the main shape. `shift` moves the background's pattern."""

    items: tuple[Item, ...]
    background: str
    texture: str
    shift: tuple[float, float]


def scene_captions(scene: Scene, rng: Random) -> list[str]:
    """Two to four captions of up to 14 words; the first one is the most complete."""
    describe = {1: _one_item, 2: _two_items, 3: _three_items}[len(scene.items)]
    full, *rest = describe(scene, rng)
    return [full, *rng.sample(rest, rng.randint(1, 3))]


def _one_item(scene: Scene, rng: Random) -> list[str]:
    (item,) = scene.items
    plain = _noun(item, rng)
    return [
        f"{_a(_noun(item, rng, sized=True))} {_place(item, rng)}",
        rng.choice((plain, f"just one {plain}", f"the {plain}", f"a picture of {_a(plain)}")),
        f"{_a(_noun(item, rng))} on {_background(scene, rng)}",
        f"one {_noun(item, rng, sized=True)} {_place(item, rng)}",
    ]


def _two_items(scene: Scene, rng: Random) -> list[str]:
    first, second = scene.items
    return [
        _related(first, second, rng, sized=True),
        _related(second, first, rng),
        f"{_a(_noun(first, rng))} and {_a(_noun(second, rng))}",
        f"{_noun(second, rng)} and {_noun(first, rng)} on {_background(scene, rng)}",
    ]


def _three_items(scene: Scene, rng: Random) -> list[str]:
    first, second, third = scene.items
    return [
        f"{_a(_noun(first, rng))}, {_a(_noun(second, rng))} and {_a(_noun(third, rng))}",
        _related(first, second, rng),
        _related(third, first, rng),
        f"{_noun(third, rng)}, {_noun(first, rng)}, {_noun(second, rng)}",
    ]


def relation(first: Item, second: Item) -> str:
    """Position of `first` relative to `second`, along the axis on which they are further apart."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) >= abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def _related(first: Item, second: Item, rng: Random, *, sized: bool = False) -> str:
    word = _say(relation(first, second), rng)
    return f"{_a(_noun(first, rng, sized=sized))} {word} {_a(_noun(second, rng))}"


def _noun(item: Item, rng: Random, *, sized: bool = False) -> str:
    words = [item.size] * sized + [item.colour, item.shape]
    return " ".join(_say(word, rng) for word in words)


def _place(item: Item, rng: Random) -> str:
    row, column = (names[_third(value)] for names, value in ((_ROWS, item.y), (_COLUMNS, item.x)))
    if row == column:
        return rng.choice(("in the middle", "in the center"))
    return f"at the {_say(' '.join(word for word in (row, column) if word != 'middle'), rng)}"


def _third(value: float) -> int:
    return min(range(3), key=lambda i: abs(THIRDS[i] - value))


def _background(scene: Scene, rng: Random) -> str:
    words = (scene.texture, _say(scene.background, rng))
    return rng.choice((f"a {' '.join(words)} background", " ".join(words)))


def _say(word: str, rng: Random) -> str:
    return rng.choice(SYNONYMS[word]) if word in SYNONYMS else word


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
