"""Scenes of coloured shapes, drawn on the fly, with captions from a small grammar.

A scene has one to three shapes, each with colour, size and place, the relation between the first two, and a background
with colour and texture. One fifth of the colour-shape combinations is held out of training (`shapes.HELD_OUT_COMBOS`),
while each of their colours and shapes occurs in it: accuracy on them measures composition.
"""

import math
from collections.abc import Sequence
from functools import cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from limoe.data.pairs import DescribedPairs, Description
from limoe.data.scenes.scenes import THIRDS, Item, Scene, scene_captions
from limoe.data.scenes.shapes import BACKGROUNDS, COLOURS, HELD_OUT_COMBOS, SHAPES, TEXTURES, TRAIN_COMBOS, texture
from limoe.errors import require_argument
from limoe.types import Pair

SPLITS = ("train", "val", "heldout")
_OVERSAMPLE = 2


class SyntheticScenes(DescribedPairs):
    """`size` scenes, each a pure function of (seed, split, index).

    `train` and `val` have different scenes of the same combinations. In `heldout` the main shape is a combination that
    neither of them has. `labels["combo"]` names the main shape, such as "red circle". `image_size` is in pixels.
    """

    def __init__(self, *, split: str, size: int, image_size: int, seed: int, max_items: int = 3) -> None:
        require_argument(split in SPLITS, "split", f"one of {', '.join(SPLITS)}", split)
        require_argument(size > 0, "size", "> 0 (scenes)", size)
        require_argument(image_size >= 8, "image_size", ">= 8 (pixels)", image_size)
        require_argument(max_items in (1, 2, 3), "max_items", "1, 2 or 3 (shapes per scene)", max_items)
        self.split = split
        self.size = size
        self.image_size = image_size
        self.seed = seed
        self.max_items = max_items

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Pair:
        scene, rng = self._scene(index)
        image = draw_scene(scene, image_size=self.image_size)
        return Pair(image, scene_captions(scene, rng), _labels(scene), self._key(index))

    def describe(self, index: int) -> Description:
        scene, rng = self._scene(index)
        return Description(scene_captions(scene, rng), _labels(scene), self._key(index))

    def _scene(self, index: int) -> tuple[Scene, Random]:
        """The scene, and the generator that draws its captions next."""
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = Random(f"{self.seed}/{self.split}/{index}")
        main = HELD_OUT_COMBOS if self.split == "heldout" else TRAIN_COMBOS
        return sample_scene(rng, main=main, others=TRAIN_COMBOS, max_items=self.max_items), rng

    def _key(self, index: int) -> str:
        return f"{self.split}-{index:06d}"


def sample_scene(
    rng: Random, *, main: Sequence[tuple[str, str]], others: Sequence[tuple[str, str]], max_items: int
) -> Scene:
    """One to `max_items` shapes in distinct places: the main one from `main`, the rest from `others`."""
    first = rng.choice(main)
    more = rng.sample([combo for combo in others if combo != first], rng.randint(1, max_items) - 1)
    combos = [first, *more]
    cells = [(rng.choice(THIRDS), rng.choice(THIRDS))]
    if more:
        cells = rng.sample([(0.27, 0.27), (0.27, 0.73), (0.73, 0.27), (0.73, 0.73)], len(combos))
    items = tuple(_item(rng, combo, cell, alone=not more) for combo, cell in zip(combos, cells, strict=True))
    return Scene(items, rng.choice(list(BACKGROUNDS)), rng.choice(TEXTURES), (rng.random(), rng.random()))


def _item(rng: Random, combo: tuple[str, str], cell: tuple[float, float], *, alone: bool) -> Item:
    size = rng.choice(("small", "large"))
    radius = {"small": rng.uniform(0.12, 0.15), "large": rng.uniform(0.20, 0.23)}[size]
    x, y = (centre + rng.uniform(-0.03, 0.03) for centre in cell)
    return Item(*combo, size, x, y, 1.15 * radius if alone else radius, rng.uniform(-0.2, 0.2))


def _labels(scene: Scene) -> dict[str, str]:
    main = scene.items[0]
    return {"combo": f"{main.colour} {main.shape}"}


def draw_scene(scene: Scene, *, image_size: int) -> Image.Image:
    """Draw the scene at twice the size and average it down for smooth edges."""
    side = image_size * _OVERSAMPLE
    left, top = (round(shift * side) for shift in scene.shift)
    image = _backdrop(scene.background, scene.texture, side).crop((left, top, left + side, top + side))
    canvas = ImageDraw.Draw(image)
    for item in scene.items:
        colour = COLOURS[item.colour]
        canvas.polygon(_outline(item, side), fill=colour, outline=colour)  # the outline closes the seam of the ring
    return image.reduce(_OVERSAMPLE)


def _outline(item: Item, side: int) -> list[float]:
    cos, sin = (f(item.angle) * item.radius * side for f in (math.cos, math.sin))
    points = SHAPES[item.shape] @ np.array([[cos, sin], [-sin, cos]]) + (item.x * side, item.y * side)
    return points.ravel().tolist()


@cache
def _backdrop(background: str, name: str, side: int) -> Image.Image:
    """A background of twice the image's side, from which each image crops its own part."""
    pattern = texture(name, size=2 * side)[..., None]
    pixels = np.array(BACKGROUNDS[background]) + 24 * pattern
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
