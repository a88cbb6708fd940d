"""Damaged copies of good images of every format, the same for the same seed."""

from collections.abc import Iterator
from io import BytesIO
from random import Random

import numpy as np
from PIL import Image


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def good_images() -> list[bytes]:
    """24 small files that reach most of the decoders: modes, compressions, animations, EXIF."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    base = Image.fromarray(noise).resize((64, 48))
    few_colours = base.quantize(16)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    more = {"save_all": True, "append_images": [base.rotate(90), base.rotate(180)]}
    return [
        *(encoded(base.convert(mode), "PNG") for mode in ("RGB", "RGBA", "LA", "1")),
        encoded(base.convert("L").convert("I;16"), "PNG"),
        encoded(few_colours, "PNG", transparency=3),
        encoded(base, "PNG", exif=exif),
        encoded(base, "PNG", **more),
        *(encoded(base.convert(mode), "JPEG") for mode in ("RGB", "L", "CMYK")),
        encoded(base, "JPEG", progressive=True, exif=exif),
        encoded(base, "WEBP", exif=exif),
        encoded(base.convert("RGBA"), "WEBP", lossless=True),
        encoded(base, "WEBP", **more),
        encoded(few_colours, "GIF", transparency=3),
        encoded(base, "GIF", **more),
        encoded(base, "BMP"),
        encoded(few_colours, "BMP"),
        encoded(base, "TIFF", exif=exif),
        *(encoded(base, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")),
    ]


def mutations(originals: list[bytes], *, count: int, seed: int) -> Iterator[bytes]:
    """`count` files, each damaged in one to four places: bytes changed, inserted or repeated, the end cut off."""
    rng = Random(seed)
    for number in range(count):
        data = bytearray(originals[number % len(originals)])
        for _ in range(rng.randint(1, 4)):
            _damage(data, rng)
        yield bytes(data)


def _damage(data: bytearray, rng: Random) -> None:
    place = rng.randrange(len(data) + 1)
    match rng.choice(["change", "change", "extreme", "cut", "insert", "repeat"]):
        case "change":
            data[place : place + 1] = rng.randbytes(1)
        case "extreme":
            data[place : place + 1] = rng.choice([b"\0", b"\x7f", b"\x80", b"\xff"])
        case "cut":
            del data[place:]
        case "insert":
            data[place:place] = rng.randbytes(rng.randint(1, 40))
        case "repeat":
            data[place:place] = data[rng.randrange(len(data) + 1) : place]
