"""Colours for experts: as far from each other as so many can be."""

from functools import cache

import numpy as np
from jaxtyping import Float

_LIGHTNESS = (0.55, 0.68, 0.81)  # visible on white and on black paper
_CHROMA = (0.07, 0.13, 0.19)
_HUES = 48
# Linear sRGB from OKLab (Ottosson 2020): to cube roots of cone responses, then from their cubes.
_TO_CONES = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.291485548]]
)
_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.707614701],
    ]
)


@cache
def palette(count: int) -> tuple[str, ...]:
    """`count` colours as `#rrggbb`. Each next one is the candidate farthest from all before it in OKLab.

    So the first colours of a longer palette are those of a shorter one. Neighbours among more than about 20 can be
    confused: show numbers as well.
    """
    lab, rgb = _candidates()
    chosen = [int(np.argmin(np.abs(lab - (0.55, -0.08, -0.10)).sum(1)))]  # a blue
    distance = np.full(len(lab), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.square(lab - lab[chosen[-1]]).sum(1))
        chosen.append(int(distance.argmax()))
    return tuple("#" + "".join(f"{value:02x}" for value in rgb[i]) for i in chosen[:count])


def _candidates() -> tuple[Float[np.ndarray, "n 3"], np.ndarray]:
    """Colours that sRGB can show, in OKLab and in bytes."""
    angle = np.arange(_HUES) * 2 * np.pi / _HUES
    lightness, chroma, hue = (x.ravel() for x in np.meshgrid(_LIGHTNESS, _CHROMA, angle, indexing="ij"))
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    linear = (lab @ _TO_CONES.T) ** 3 @ _TO_RGB.T
    inside = ((linear >= 0) & (linear <= 1)).all(1)
    linear = linear[inside]
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.abs(linear) ** (1 / 2.4) - 0.055)
    return lab[inside], (srgb * 255).round().astype(int)
