import pickle
import random
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import v2

from limoe.data.images.library_transforms import LibraryTransform, seeded

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
TORCHVISION = {
    "crop": v2.RandomResizedCrop(16, scale=(0.3, 1.0)),
    "flip": v2.RandomHorizontalFlip(),
    "randaugment": v2.RandAugment(),
    "erase": v2.Compose([v2.PILToTensor(), v2.RandomErasing(p=0.5)]),
}
TIMM = {
    "timm": create_transform(
        16, is_training=True, auto_augment="rand-m9-n2-mstd0.5", re_prob=0.5, re_mode="pixel", interpolation="bicubic"
    )
}


def global_state() -> list[object]:
    numpy_state = np.random.get_state()
    return [random.getstate(), numpy_state[1].tolist(), numpy_state[2:], torch.get_rng_state().tolist()]


@pytest.mark.parametrize("steps", [TORCHVISION, TIMM], ids=["torchvision", "timm"])
def test_images_depend_on_the_generator_alone(steps: dict[str, Any]) -> None:
    transform = LibraryTransform(steps=steps, image_size=16)
    images = []
    for seed in (1, 2, 3):  # other global states: the same images
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = global_state()
        images.append(torch.stack([transform(IMAGE, Random(place)) for place in range(20)]))
        assert global_state() == before
    assert torch.equal(images[0], images[1]) and torch.equal(images[0], images[2])
    assert len({float(image.sum()) for image in images[0]}) == 20
    copy = pickle.loads(pickle.dumps(transform))  # what a loader worker gets
    assert torch.equal(copy(IMAGE, Random(7)), images[0][7])


def test_the_state_comes_back_after_an_error_too() -> None:
    before = global_state()
    with pytest.raises(ZeroDivisionError), seeded(5):
        torch.rand(3)
        _ = 1 / 0
    assert global_state() == before


def test_all_three_generators_are_seeded() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    with seeded(2**62 + 1):
        first = draw()
    with seeded(2**62 + 1):
        again = draw()
    with seeded(2**62 + 2):
        other = draw()
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_images_and_bytes_are_normalized_and_floats_are_not() -> None:
    white = Image.new("RGB", (4, 4), "white")
    half = {"mean": [0.0, 0.0, 0.0], "std": [2.0, 2.0, 2.0]}
    to_floats = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    finals = {"image": lambda image: image, "bytes": v2.PILToTensor(), "float": to_floats}
    values = {
        name: LibraryTransform(steps={"last": step}, image_size=4, normalization=half)(white, Random(0))
        for name, step in finals.items()
    }
    # White is 1 in [0, 1]: (1 - 0) / 2; the float pipeline's own 1 stays.
    assert {name: set(value.flatten().tolist()) for name, value in values.items()} == {
        "image": {0.5},
        "bytes": {0.5},
        "float": {1.0},
    }


@pytest.mark.parametrize("size", [(1, 1), (1000, 1), (1, 1000)])
@pytest.mark.parametrize("steps", [TORCHVISION, TIMM], ids=["torchvision", "timm"])
def test_extreme_sizes_work(size: tuple[int, int], steps: dict[str, Any]) -> None:
    transform = LibraryTransform(steps=steps, image_size=16)
    for seed in range(5):
        assert transform(Image.new("RGB", size, "white"), Random(seed)).isfinite().all()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (v2.CenterCrop(5), "the steps of the training transform must give (3, 4, 4), got (3, 5, 5)"),
        (np.asarray, "the steps of the training transform must give an image or a tensor, got ndarray"),
    ],
)
def test_steps_that_give_something_else_are_refused(step: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        LibraryTransform(steps={"step": step}, image_size=4)(IMAGE, Random(0))
    assert str(error.value) == message
