import struct
import warnings
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from limoe.data.bad_samples import BadContent
from limoe.data.images.decoding import FORMATS, decode_rgb


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def refused(data: bytes) -> tuple[str, str]:
    with pytest.raises(BadContent) as caught:
        decode_rgb(data)
    assert "\n" not in str(caught.value)
    return caught.value.kind, str(caught.value)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = Image.fromarray(np.array([[0, 257 * 128, 65535]], dtype=np.uint16))
    pixels = np.asarray(decode_rgb(encoded(ramp)))
    assert pixels[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]  # 65535 = 257 * 255


def test_transparency_lies_on_white() -> None:
    # Half transparent black on white: 255 * (1 - 128 / 255) = 127; hidden colours do not show.
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 128))
    image.putpixel((1, 0), (200, 0, 0, 0))
    pixels = np.asarray(decode_rgb(encoded(image)))
    assert pixels[0].tolist() == [[127] * 3, [255] * 3]


def test_transparent_palette_entry_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    pixels = np.asarray(decode_rgb(encoded(image, transparency=1)))
    assert pixels[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    image = Image.new("RGB", (48, 16), "black")
    image.paste("white", (0, 0, 16, 16))
    upright = decode_rgb(encoded(image, "JPEG", exif=exif, quality=95))
    assert upright.size == (16, 48)
    assert upright.getpixel((8, 8)) > (200, 200, 200) > upright.getpixel((8, 40))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_told_by_its_content(kind: str) -> None:
    image = Image.new("RGB", (8, 4), (200, 40, 40))
    pixels = np.asarray(decode_rgb(encoded(image, kind))).astype(int)
    assert pixels.shape == (4, 8, 3)
    assert abs(pixels - [200, 40, 40]).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_images_the_first_counts(kind: str) -> None:
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    data = encoded(red, kind, save_all=True, append_images=[blue])
    assert decode_rgb(data).getpixel((1, 1)) == pytest.approx((255, 0, 0), abs=3)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_is_turned_once(compression: str | None) -> None:
    """Orientation 6 of a 48 x 16 image is 16 x 48; Pillow itself turns a TIFF, and a second turn would undo that."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (48, 16), "black")
    image.paste("white", (0, 0, 16, 16))
    upright = decode_rgb(encoded(image, "TIFF", exif=exif, compression=compression))
    assert upright.size == (16, 48)
    assert (upright.getpixel((8, 8)), upright.getpixel((8, 40))) == ((255,) * 3, (0,) * 3)


def test_numbers_without_an_agreed_range_are_refused() -> None:
    kind, reason = refused(encoded(Image.fromarray(np.array([[0.5, 2e9]], dtype=np.float32)), "TIFF"))
    assert (kind, "32 bits" in reason) == ("bad_image", True)


def test_size_is_checked_before_decoding() -> None:
    expected = "its image has 8000 x 5001 pixels, more than 40,000,000"
    assert refused(encoded(Image.new("1", (8000, 5001)))) == ("too_large", expected)


def test_a_tile_larger_than_its_image_is_refused() -> None:
    """416 bytes that would make libtiff allocate 805 MB: 16,384 x 16,384 pixels of three bytes for 100 x 100."""
    payload = zlib.compress(bytes(1000))
    tags = {256: 100, 257: 100, 258: 8, 259: 8, 262: 2, 277: 3, 322: 16384, 323: 16384, 324: 400, 325: len(payload)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    assert refused(head.ljust(400, b"\0") + payload) == (
        "too_large",
        "its image has tiles of 268,435,456 pixels, more than 4,000,000",
    )


def test_scans_without_end_are_refused() -> None:
    """A progressive JPEG whose last scan is repeated: few bytes, and every scan goes over all pixels."""
    good = encoded(Image.new("RGB", (2000, 2000), "red"), "JPEG", progressive=True)
    scan = good[good.rfind(b"\xff\xda") : -2]
    assert decode_rgb(good + b"appended \xff\xda" * 900).size == (2000, 2000)  # as phones append films
    kind, reason = refused(good[:-2] + 1000 * scan + good[-2:])
    assert (kind, reason.startswith("its image goes over 4,000,000 pixels 1,0")) == ("too_large", True)


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (b"", "empty", "its image is empty (0 bytes)"),
        (b"<svg/>", "unknown_format", "6 bytes) cannot be read as any of JPEG, PNG, WEBP, GIF, BMP, TIFF"),
        (b"%PDF-1.7", "unknown_format", "cannot be read as any of"),
    ],
)
def test_what_is_no_image_is_told_by_kind(data: bytes, kind: str, reason: str) -> None:
    found, message = refused(data)
    assert found == kind
    assert reason in message


def test_a_cut_image_is_bad_even_where_half_of_it_could_be_shown() -> None:
    data = encoded(Image.effect_noise((64, 64), 90), "JPEG")
    kind, reason = refused(data[: len(data) // 2])
    assert (kind, "truncated" in reason) == ("bad_image", True)


def test_the_settings_of_pillow_and_of_warnings_stay_as_they_were() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    decode_rgb(encoded(Image.new("RGB", (4, 4))))
    refused(b"nothing")
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before
