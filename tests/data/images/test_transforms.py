from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from limoe.data.images.transforms import EvalTransform, TrainTransform


def gradient(width: int, height: int) -> Image.Image:
    """Red grows from left to right, green from top to bottom."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8))


def test_eval_maps_bytes_to_minus_one_to_one() -> None:
    image = Image.fromarray(np.array([[[0, 51, 255], [255, 0, 0]], [[0, 0, 0], [0, 0, 0]]], dtype=np.uint8))
    pixels = EvalTransform(image_size=2)(image)
    assert pixels.dtype == torch.float32
    # 51 / 127.5 - 1 = -0.6
    assert pixels[:, 0, 0].tolist() == pytest.approx([-1.0, -0.6, 1.0])
    assert pixels[:, 0, 1].tolist() == pytest.approx([1.0, -1.0, -1.0])


def test_eval_squeezes_the_whole_image_into_the_square() -> None:
    pixels = EvalTransform(image_size=8)(gradient(64, 16))
    assert pixels.shape == (3, 8, 8)
    # The centres of the outer columns lie at 1/16 and 15/16 of the width: 2/16 - 1 = -0.875 and 0.875.
    assert pixels[0, :, 0].tolist() == pytest.approx([-0.875] * 8, abs=0.06)
    assert pixels[0, :, 7].tolist() == pytest.approx([0.875] * 8, abs=0.06)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_centre_crop_is_resize_and_crop_in_one_step(interpolation: str) -> None:
    """Oracle: torchvision's resize of the shorter side to 32, then its centre crop of 28 (28 / 32 = 0.875)."""
    # Greys from 64 to 191: no filter overshoots the bytes, whose rounding is then the only difference.
    noise = Image.fromarray(np.random.default_rng(0).integers(64, 192, (80, 40, 3), dtype=np.uint8))
    steps = [v2.Resize(32, InterpolationMode(interpolation)), v2.CenterCrop(28)]
    expected = torch.from_numpy(np.array(v2.Compose(steps)(noise))).permute(2, 0, 1) / 127.5 - 1
    pixels = EvalTransform(image_size=28, crop=0.875, interpolation=interpolation)(noise)
    assert (pixels - expected).abs().max() <= 1 / 127.5 + 1e-6  # one level


def test_centre_crop_keeps_the_proportions_and_the_middle() -> None:
    pixels = EvalTransform(image_size=8, crop=1.0)(gradient(64, 16))
    # 16 of 64 columns, from 24 to 40: 24.5 / 64 = 0.383 to 39.5 / 64 = 0.617, in [-1, 1] -0.23 to 0.23
    assert pixels[0, :, 0].tolist() == pytest.approx([-0.23] * 8, abs=0.03)
    assert pixels[0, :, 7].tolist() == pytest.approx([0.23] * 8, abs=0.03)


def test_interpolation_is_chosen_by_name() -> None:
    halves = Image.fromarray(np.array([[[0] * 3, [255] * 3]] * 2, dtype=np.uint8))
    nearest = EvalTransform(image_size=4, interpolation="nearest")(halves)
    assert nearest[0, 0].tolist() == [-1, -1, 1, 1]
    # New columns at 0.25, 0.75, 1.25 and 1.75 between old ones at 0.5 and 1.5: the second is 0.75 black, 0.25 white.
    bilinear = EvalTransform(image_size=4, interpolation="bilinear")(halves)
    assert bilinear[0, 0].tolist() == pytest.approx([-1, -0.5, 0.5, 1], abs=0.01)


def test_normalization_comes_last() -> None:
    """Jitter clamps to [-1, 1]: white stays white at most, whatever range the model wants."""
    plain, other = (
        TrainTransform(image_size=8, min_scale=0.5, flip=0.5, jitter=0.5, normalization=name)(
            gradient(20, 20), Random(3)
        )
        for name in ("unit", {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]})
    )
    assert torch.allclose(other, (plain + 1) / 2, atol=1e-6)


def test_train_is_plain_resize_when_all_is_off() -> None:
    off = TrainTransform(image_size=8, min_scale=1.0, flip=0.0, jitter=0.0)
    assert torch.equal(off(gradient(20, 20), Random(0)), EvalTransform(image_size=8)(gradient(20, 20)))


def test_flip_mirrors() -> None:
    flip = TrainTransform(image_size=8, min_scale=1.0, flip=1.0, jitter=0.0)
    assert torch.equal(flip(gradient(20, 20), Random(0)).flip(-1), EvalTransform(image_size=8)(gradient(20, 20)))


def test_crops_keep_at_least_min_scale_of_the_area() -> None:
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


def test_jitter_stays_in_range() -> None:
    jitter = TrainTransform(image_size=8, min_scale=1.0, flip=0.0, jitter=0.5)
    plain = EvalTransform(image_size=8)(gradient(8, 8))
    changed = [jitter(gradient(8, 8), Random(seed)) for seed in range(50)]
    assert all(pixels.abs().max() <= 1 for pixels in changed)
    assert all((pixels - plain).abs().max() <= 1.0 + 1e-6 for pixels in changed)  # 0.5 * 1 from each of the two
    assert len({float(pixels.sum()) for pixels in changed}) == 50


def test_randomness_comes_from_the_generator_alone() -> None:
    transform = TrainTransform(image_size=8, min_scale=0.3, flip=0.5, jitter=0.3)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again = (transform(gradient(30, 20), Random(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("size", [(1, 1), (1000, 1), (1, 1000)])
def test_extreme_sizes_work(size: tuple[int, int]) -> None:
    transform = TrainTransform(image_size=8, min_scale=0.3, flip=0.5, jitter=0.3)
    for seed in range(20):
        assert transform(Image.new("RGB", size, "white"), Random(seed)).isfinite().all()
    for crop in (None, 0.875):
        assert (EvalTransform(image_size=8, crop=crop)(Image.new("RGB", size, "white")) == 1).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_scale": 0.0}, "min_scale must be in (0, 1], got 0.0"),
        ({"flip": 1.5}, "flip must be in [0, 1], got 1.5"),
        ({"jitter": 1.0}, "jitter must be in [0, 1), got 1.0"),
        ({"image_size": 0}, "image_size must be > 0, got 0"),
        (
            {"interpolation": "cubic"},
            "interpolation must be one of bicubic, bilinear, lanczos, box, hamming, nearest, got 'cubic'",
        ),
    ],
)
def test_bad_settings_are_named(settings: dict[str, float | str], message: str) -> None:
    with pytest.raises(ValueError) as error:
        TrainTransform(**({"image_size": 8, "min_scale": 1.0, "flip": 0.0, "jitter": 0.0} | settings))
    assert str(error.value) == message


def test_bad_crop_of_evaluation_is_named() -> None:
    with pytest.raises(ValueError, match=r"^crop must be in \(0, 1\], or null, got 1\.5"):
        EvalTransform(image_size=8, crop=1.5)
