import pytest
import torch
from timm.data import constants

from limoe.data.images.pixels import NORMALIZATIONS, Normalize


def test_unit_is_left_as_it_is() -> None:
    pixels = torch.rand(3, 2, 2) * 2 - 1
    assert Normalize("unit")(pixels) is pixels


def test_mean_and_std_are_those_of_zero_to_one() -> None:
    pixels = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 3).expand(3, 1, 3)
    normalized = Normalize({"mean": [0.5, 0.25, 0.0], "std": [0.5, 0.25, 2.0]})(pixels)
    # In [0, 1] these are 0, 0.5 and 1: (v - 0.5) / 0.5, (v - 0.25) / 0.25, v / 2
    expected = [[[-1.0, 0.0, 1.0]], [[-1.0, 1.0, 3.0]], [[0.0, 0.25, 0.5]]]
    assert normalized.tolist() == expected


def test_named_ranges_are_those_of_timm() -> None:
    theirs = {
        "unit": (constants.IMAGENET_INCEPTION_MEAN, constants.IMAGENET_INCEPTION_STD),
        "imagenet": (constants.IMAGENET_DEFAULT_MEAN, constants.IMAGENET_DEFAULT_STD),
        "clip": (constants.OPENAI_CLIP_MEAN, constants.OPENAI_CLIP_STD),
    }
    assert theirs == NORMALIZATIONS


@pytest.mark.parametrize(
    "normalization", ["imagnet", {"mean": [0.5] * 3}, {"mean": [0.5] * 3, "std": [1, 0, 1]}, {"mean": [0], "std": [1]}]
)
def test_bad_settings_are_named(normalization: object) -> None:
    with pytest.raises(ValueError, match=r"normalization must be .*, got"):
        Normalize(normalization)
