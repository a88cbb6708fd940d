"""The collection of odd and broken images and texts behaves as the list beside it says."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from limoe.data.bad_samples import BadContent
from limoe.data.images.decoding import decode_rgb
from limoe.data.images.transforms import EvalTransform, TrainTransform
from limoe.data.text.captions import read_caption, read_description
from limoe.data.text.tokenizers import ByteBPE

LEGEND = {  # what the list may say of an image or text, and what we then do
    "ok": "ok",
    "ok_check_range": "ok",
    "ok_check_size": "ok",
    "ok_truncate": "ok",
    "skip": "skip",
    "skip_or_bounded": "skip",
    "skip_or_replace": "skip",
}
EITHER = {  # `skip_or_ok`: what we do
    "images/text_chunk_bomb.png": "skip",
    "json/nan.json": "ok",  # a number we never read
    "json/captions_wrong_type.json": "skip",
    "json/duplicate_keys.json": "ok",  # the last one counts, as in every JSON reader
}


@pytest.fixture
def corrupt(shared: Path) -> Path:
    return shared / "data" / "corrupt"


def rows(corrupt: Path, kind: str) -> Iterator[tuple[str, str]]:
    """Name and expected outcome of the files of a kind."""
    for name, entry in json.loads((corrupt / "expected.json").read_text())["files"].items():
        if entry["kind"] == kind:
            yield name, EITHER[name] if entry["expect"] == "skip_or_ok" else LEGEND[entry["expect"]]


def check(corrupt: Path, kind: str, *, count: int, use: Callable[[str, bytes], object]) -> None:
    """`use` gives something for every `ok`, and one line for every `skip`."""
    outcome = {}
    expected = dict(rows(corrupt, kind))
    for name in expected:
        try:
            outcome[name] = "ok" if use(name, (corrupt / name).read_bytes()) else "nothing"
        except BadContent as error:
            outcome[name] = "skip" if str(error).isprintable() else "more than a line"
    assert outcome == expected
    assert len(outcome) == count


def test_images(corrupt: Path) -> None:
    """What can be read is good for both transforms, whatever its shape."""
    plain = EvalTransform(image_size=32)
    augmented = TrainTransform(image_size=32, min_scale=0.1, flip=0.5, jitter=0.5)

    def use(name: str, data: bytes) -> bool:
        image = decode_rgb(data)
        tensors = [plain(image), augmented(image, Random(name))]
        return image.mode == "RGB" and all(x.shape == (3, 32, 32) and x.isfinite().all() for x in tensors)

    check(corrupt, "image", count=41, use=use)


def test_captions(corrupt: Path) -> None:
    """What can be read is good for the tokenizer, whatever its length."""
    tokenizer = ByteBPE(vocab_size=280, length=8, max_captions=10).fit(["a red circle"])

    def use(name: str, data: bytes) -> bool:
        described = read_description("k", fields=data) if name.endswith(".json") else None
        ids, mask = tokenizer.encode(described.captions if described else [read_caption(data)])
        return ids.shape == (1, 8) and bool(mask.any())

    check(corrupt, "text", count=14, use=use)


def test_descriptions(corrupt: Path) -> None:
    check(corrupt, "json", count=8, use=lambda name, data: read_description("k", fields=data).captions)


@pytest.fixture
def pixels(corrupt: Path) -> Callable[[str], np.ndarray]:
    return lambda name: np.asarray(decode_rgb((corrupt / "images" / name).read_bytes())).astype(int)


Pixels = Callable[[str], np.ndarray]
EXACT = "wrong_extension_is_png.jpg"  # the image most of the others were made from, without loss


def test_formats_without_loss_agree(pixels: Pixels) -> None:
    for name in ("bitmap.bmp", "scan.tiff"):
        assert np.array_equal(pixels(name), pixels(EXACT)), name


@pytest.mark.parametrize("name", ["cmyk.jpg", "progressive.jpg", "animated.gif", "animated.webp", "lossy.webp"])
def test_colours_are_right(pixels: Pixels, name: str) -> None:
    """An inverted CMYK image, or another frame, would be off by 80 or more on average."""
    assert np.abs(pixels(name) - pixels(EXACT)).mean() < 8


def test_sixteen_bit_ramps_keep_their_range(pixels: Pixels) -> None:
    grey = pixels("gray16.png")
    assert grey.mean() / 255 == pytest.approx(0.5, abs=0.01)
    assert (grey.min(), grey.max()) == (0, 255)
    assert pixels("rgb16.png").mean() / 255 == pytest.approx(0.5, abs=0.01)


def test_hidden_colours_do_not_show(pixels: Pixels) -> None:
    half = pixels("rgba_half.png")
    assert (half[:, :48] == 255).all()
    assert np.array_equal(half[:, 48:], pixels(EXACT)[:, 48:])
    assert (pixels("rgba_all_transparent.png") == 255).all()
    palette, transparent = pixels("palette.png"), pixels("palette_alpha.png")
    differs = (palette != transparent).any(-1)
    assert differs.any()
    assert (transparent[differs] == 255).all()


@pytest.mark.parametrize(("orientation", "quarters"), [(3, 2), (6, -1), (8, 1)])
def test_images_stand_upright(pixels: Pixels, orientation: int, quarters: int) -> None:
    """Quarter turns against the clock of the same JPEG without orientation."""
    turned = pixels(f"exif_orientation_{orientation}.jpg")
    assert np.array_equal(turned, np.rot90(pixels("UPPER.JPG"), quarters))
    assert turned.shape == ((64, 96, 3) if orientation == 3 else (96, 64, 3))


def test_grey_images_are_grey(pixels: Pixels) -> None:
    """Within rounding and JPEG loss of the luma that ITU-R 601 gives the colours."""
    luma = pixels(EXACT) @ [0.299, 0.587, 0.114]
    for name, error in (("gray.jpg", 2), ("gray_alpha.png", 1)):
        found = pixels(name)
        assert (found == found[..., :1]).all()
        assert np.abs(found[..., 0] - luma).mean() < error, name
    assert set(np.unique(pixels("one_bit.png"))) == {0, 255}


def test_captions_are_what_was_written(corrupt: Path) -> None:
    def caption(name: str) -> str:
        return read_caption((corrupt / "text" / name).read_bytes())

    assert caption("utf8_bom.txt") == "a red circle"
    assert caption("control_chars.txt") == "a red\0circle\a and\x1b[31m a box"
    assert len(caption("very_long.txt")) <= 10_000
    assert caption("one_long_word.txt") == "a" * 10_000
