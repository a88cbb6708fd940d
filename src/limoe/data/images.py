"""Picture bytes to an RGB picture: bounded before decoding, upright, transparency on white."""

import struct
import warnings
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from limoe.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP")
_NAMES = ", ".join(FORMATS)
MAX_PIXELS = 40_000_000
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)


def decode_rgb(data: bytes, *, name: str = "picture") -> Image.Image:
    """Decode by content, whatever the file was called; of an animation the first frame.

    The header is checked against `MAX_PIXELS` before anything is decoded, so a small file cannot ask for gigabytes.
    `name` says in the message of the `DataError` which picture is broken.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about sizes (checked here) and odd metadata (harmless)
            image = Image.open(BytesIO(data), formats=FORMATS)
            _check_size(image, name)
            image.load()
            return _to_rgb(_upright(image))
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{name} ({len(data):,} bytes) is none of {_NAMES}; replace or remove it") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} has more than {MAX_PIXELS:,} pixels; make it smaller or remove it") from error
    except _DECODER_ERRORS as error:
        reason = " ".join(str(error).split())[:100]
        raise DataError(f"{name} ({len(data):,} bytes) cannot be decoded: {reason}; replace or remove it") from error


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        raise DataError(f"{name} has {size} pixels, more than {MAX_PIXELS:,}; make it smaller or remove it")


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; a broken EXIF block says nothing about it."""
    if "exif" not in image.info:
        return image
    try:
        return ImageOps.exif_transpose(image)
    except _DECODER_ERRORS:
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling
        return Image.fromarray((np.asarray(image).astype(np.int64) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
