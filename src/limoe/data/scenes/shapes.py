"""Parts of synthetic scenes: colours, outlines and backgrounds."""

import math
from itertools import product

import numpy as np

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (220, 30, 35),
    "orange": (250, 135, 20),
    "yellow": (245, 220, 40),
    "lime": (165, 245, 60),
    "green": (20, 125, 50),
    "cyan": (40, 205, 220),
    "blue": (35, 65, 215),
    "purple": (130, 40, 165),
    "pink": (255, 125, 190),
    "brown": (120, 70, 30),
}
BACKGROUNDS: dict[str, Colour] = {"white": (245, 245, 245), "gray": (150, 150, 150), "black": (20, 20, 20)}
TEXTURES = ("plain", "striped", "checkered", "dotted", "grainy", "shaded")


def _turned(radii: list[float], *, start: float) -> list[tuple[float, float]]:
    """Points at equal angles and the given distances from the centre; `start` is the first angle in turns."""
    angles = [2 * math.pi * (start + i / len(radii)) for i in range(len(radii))]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _arc(radius: float, *, first: float, last: float, centre: float = 0.0) -> list[tuple[float, float]]:
    angles = np.linspace(first, last, 20) * 2 * math.pi
    return [(centre + radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _heart() -> list[tuple[float, float]]:
    angles = np.linspace(0, 2 * math.pi, 28, endpoint=False)
    y = 13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles)
    return list(zip(np.sin(angles) ** 3, -(y + 2) / 16, strict=True))


def _cross(arm: float) -> list[tuple[float, float]]:
    """Two bars of half width `arm`: a quarter of the outline, turned four times."""
    quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
    turns = (lambda x, y: (x, y), lambda x, y: (-y, x), lambda x, y: (-x, -y), lambda x, y: (y, -x))
    return [turn(x, y) for turn in turns for x, y in quarter]


# Outlines in a circle of radius 1, y pointing down as in images.
SHAPES: dict[str, np.ndarray] = {
    name: np.array(points, dtype=np.float64)
    for name, points in {
        "circle": _turned([0.92] * 28, start=0.0),
        "square": _turned([1.1] * 4, start=0.125),
        "triangle": _turned([1.1] * 3, start=-0.25),
        "diamond": [(0.0, -1.1), (0.7, 0.0), (0.0, 1.1), (-0.7, 0.0)],
        "star": _turned([1.15, 0.45] * 5, start=-0.25),
        "cross": _cross(0.32),
        "ring": _arc(1.0, first=0.0, last=1.0) + _arc(0.55, first=1.0, last=0.0),
        "heart": _heart(),
        "arrow": [(-1, -0.3), (0.1, -0.3), (0.1, -0.8), (1.05, 0), (0.1, 0.8), (0.1, 0.3), (-1, 0.3)],
        "crescent": _arc(1.0, first=0.147, last=0.853) + _arc(0.8, first=0.76, last=0.24, centre=0.55),
    }.items()
}


# Two shapes of each colour and two colours of each shape are never drawn in training: 20 of the 100 combinations.
HELD_OUT_COMBOS = [(c, s) for (i, c), (j, s) in product(enumerate(COLOURS), enumerate(SHAPES)) if (i + j) % 5 == 0]
TRAIN_COMBOS = [combo for combo in product(COLOURS, SHAPES) if combo not in HELD_OUT_COMBOS]


def texture(name: str, *, size: int) -> np.ndarray:
    """A pattern [size, size] with values in [-1, 1]."""
    y, x = np.mgrid[0:size, 0:size] / size
    patterns = {
        "plain": np.zeros_like(x),
        "striped": np.where((x + y) * 6 % 1 < 0.5, 1.0, -1.0),
        "checkered": np.where((np.floor(x * 9) + np.floor(y * 9)) % 2 == 0, 1.0, -1.0),
        "dotted": np.where((x * 8 % 1 - 0.5) ** 2 + (y * 8 % 1 - 0.5) ** 2 < 0.08, 1.0, -0.3),
        "grainy": np.random.default_rng(0).uniform(-1, 1, x.shape),
        "shaded": 2 * y - 1,
    }
    return patterns[name]
