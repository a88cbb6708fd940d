from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from limoe.data.transforms import EvalTransform, TrainTransform
from limoe.errors import ConfigError


def gradient(width, height):
    """Red grows from left to right, green from top to bottom."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8))


def test_eval_maps_bytes_to_minus_one_to_one():
    image = Image.fromarray(np.array([[[0, 51, 255], [255, 0, 0]], [[0, 0, 0], [0, 0, 0]]], dtype=np.uint8))
    pixels = EvalTransform(image_size=2)(image)
    assert pixels.dtype == torch.float32
    # 51 / 127.5 - 1 = -0.6
    assert pixels[:, 0, 0].tolist() == pytest.approx([-1.0, -0.6, 1.0])
    assert pixels[:, 0, 1].tolist() == pytest.approx([1.0, -1.0, -1.0])


def test_eval_squeezes_the_whole_picture_into_the_square():
    pixels = EvalTransform(image_size=8)(gradient(64, 16))
    assert pixels.shape == (3, 8, 8)
    # The centres of the outer columns lie at 1/16 and 15/16 of the width: 2/16 - 1 = -0.875 and 0.875.
    assert pixels[0, :, 0].tolist() == pytest.approx([-0.875] * 8, abs=0.06)
    assert pixels[0, :, 7].tolist() == pytest.approx([0.875] * 8, abs=0.06)


def test_train_is_plain_resize_when_all_is_off():
    off = TrainTransform(image_size=8, min_scale=1.0, flip=0.0, jitter=0.0)
    assert torch.equal(off(gradient(20, 20), Random(0)), EvalTransform(image_size=8)(gradient(20, 20)))


def test_flip_mirrors():
    flip = TrainTransform(image_size=8, min_scale=1.0, flip=1.0, jitter=0.0)
    assert torch.equal(flip(gradient(20, 20), Random(0)).flip(-1), EvalTransform(image_size=8)(gradient(20, 20)))


def test_crops_keep_at_least_min_scale_of_the_area():
    crop = TrainTransform(image_size=16, min_scale=0.5, flip=0.0, jitter=0.0)
    shares = []
    for seed in range(300):
        pixels = crop(gradient(200, 100), Random(seed))
        # The colours span what the crop saw: from 2 * left - 1 to 2 * right - 1, less one sixteenth for the centres.
        width = (pixels[0, 0, -1] - pixels[0, 0, 0]) / 2 * 16 / 15
        height = (pixels[1, -1, 0] - pixels[1, 0, 0]) / 2 * 16 / 15
        shares.append(float(width * height))
    assert 0.42 < min(shares) < 0.55
    assert 0.9 < max(shares) < 1.06
    assert np.std(shares) > 0.1


def test_jitter_stays_in_range():
    jitter = TrainTransform(image_size=8, min_scale=1.0, flip=0.0, jitter=0.5)
    plain = EvalTransform(image_size=8)(gradient(8, 8))
    changed = [jitter(gradient(8, 8), Random(seed)) for seed in range(50)]
    assert all(pixels.abs().max() <= 1 for pixels in changed)
    assert all((pixels - plain).abs().max() <= 1.0 + 1e-6 for pixels in changed)  # 0.5 * 1 from each of the two
    assert len({float(pixels.sum()) for pixels in changed}) == 50


def test_randomness_comes_from_the_generator_alone():
    transform = TrainTransform(image_size=8, min_scale=0.3, flip=0.5, jitter=0.3)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again = (transform(gradient(30, 20), Random(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("size", [(1, 1), (1000, 1), (1, 1000)])
def test_extreme_sizes_work(size):
    transform = TrainTransform(image_size=8, min_scale=0.3, flip=0.5, jitter=0.3)
    for seed in range(20):
        assert transform(Image.new("RGB", size, "white"), Random(seed)).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_scale": 0.0}, "train_transform.min_scale must be in (0, 1], got 0.0"),
        ({"flip": 1.5}, "train_transform.flip must be in [0, 1], got 1.5"),
        ({"jitter": 1.0}, "train_transform.jitter must be in [0, 1), got 1.0"),
        ({"image_size": 0}, "data.image_size must be > 0, got 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError) as error:
        TrainTransform(**({"image_size": 8, "min_scale": 1.0, "flip": 0.0, "jitter": 0.0} | settings))
    assert str(error.value) == message
