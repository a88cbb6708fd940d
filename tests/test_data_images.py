import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from limoe.data.images import decode_rgb
from limoe.errors import DataError


def encoded(image, kind="PNG", **settings):
    buffer = BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def test_sixteen_bit_grey_is_scaled_not_clipped():
    ramp = Image.fromarray(np.array([[0, 257 * 128, 65535]], dtype=np.uint16))
    pixels = np.asarray(decode_rgb(encoded(ramp)))
    assert pixels[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]  # 65535 = 257 * 255


def test_transparency_lies_on_white():
    # Half transparent black on white: 255 * (1 - 128 / 255) = 127; hidden colours do not show.
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 128))
    image.putpixel((1, 0), (200, 0, 0, 0))
    pixels = np.asarray(decode_rgb(encoded(image)))
    assert pixels[0].tolist() == [[127] * 3, [255] * 3]


def test_transparent_palette_entry_becomes_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    pixels = np.asarray(decode_rgb(encoded(image, transparency=1)))
    assert pixels[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    image = Image.new("RGB", (48, 16), "black")
    image.paste("white", (0, 0, 16, 16))
    upright = decode_rgb(encoded(image, "JPEG", exif=exif, quality=95))
    assert upright.size == (16, 48)
    assert upright.getpixel((8, 8)) > (200, 200, 200) > upright.getpixel((8, 40))


def test_size_is_checked_before_decoding():
    data = encoded(Image.new("1", (8000, 5001)))
    with pytest.raises(DataError, match=r"a\.png has 8000 x 5001 pixels, more than 40,000,000"):
        decode_rgb(data, name="a.png")


def test_other_formats_are_refused():
    with pytest.raises(DataError, match=r"scan \(.* bytes\) is none of JPEG, PNG, WEBP"):
        decode_rgb(encoded(Image.new("RGB", (4, 4)), "TIFF"), name="scan")


def test_every_picture_of_the_odd_and_broken_collection(shared):
    """Either an RGB picture or a `DataError` with one line, as the list beside the files says."""
    folder = shared / "data" / "corrupt"
    listed = json.loads((folder / "expected.json").read_text())["files"]
    refused_formats = {"images/animated.gif", "images/bitmap.bmp", "images/scan.tiff"}
    outcome = {}
    for name, entry in listed.items():
        if entry["kind"] != "image":
            continue
        try:
            image = decode_rgb((folder / name).read_bytes(), name=name)
            assert image.mode == "RGB"
            outcome[name] = "ok"
        except DataError as error:
            assert name in str(error)
            assert "\n" not in str(error)
            outcome[name] = "skip"
    assert len(outcome) == 41
    for name, got in outcome.items():
        expected = "skip" if name in refused_formats else listed[name]["expect"].split("_")[0]
        assert got == expected, name


def test_flipped_bytes_raise_nothing_but_data_errors():
    """300 damaged copies each of a PNG, a JPEG and a WEBP."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
    accepted = 0
    for kind in ("PNG", "JPEG", "WEBP"):
        good = encoded(image, kind)
        for _ in range(300):
            data = bytearray(good)
            for place in rng.integers(0, len(data), 3):
                data[place] = rng.integers(0, 256)
            try:
                accepted += decode_rgb(bytes(data)).mode == "RGB"
            except DataError:
                continue
    assert 0 < accepted < 900
