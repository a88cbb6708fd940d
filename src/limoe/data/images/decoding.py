"""Decoding of image bytes to RGB: limits, EXIF rotation, transparency on white.

A small file must not cause large costs in memory or time. Pillow limits texts and EXIF; the size of the image, the
tiles of a TIFF (libtiff allocates a whole one first) and the scans of a JPEG (each passes over all pixels) are limited
here.
"""

import warnings
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from limoe.data.bad_samples import BadContent

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 40_000_000
_MAX_TILE = 4_000_000  # pixels of one tile of a TIFF; 65,536 are usual
_MAX_SCANNED = 4_000_000_000  # pixels times scans of a JPEG, a few seconds; a progressive JPEG has about 10 scans
_START_OF_SCAN = b"\xff\xda"
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of a TIFF


def decode_rgb(data: bytes) -> Image.Image:
    """Decode an image by its content, not its file name; of several frames or pages the first.

    Raises only `BadContent`, of one of the kinds `empty`, `unknown_format`, `too_large` and `bad_image`. Not
    thread-safe: Python's warnings are ignored for the whole process during the call.
    """
    if not data:
        raise BadContent("its image is empty (0 bytes)", kind="empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about sizes (checked here) and odd metadata (harmless)
            image = Image.open(BytesIO(data), formats=FORMATS)
            _check_cost(image, data)
            image.load()
            return _to_rgb(_upright(image))
    except (BadContent, MemoryError):
        raise
    except UnidentifiedImageError as error:
        reason = f"its image ({len(data):,} bytes) cannot be read as any of {', '.join(FORMATS)}"
        raise BadContent(reason, kind="unknown_format") from error
    except Image.DecompressionBombError as error:
        raise BadContent(f"its image has more than {MAX_PIXELS:,} pixels", kind="too_large") from error
    except Exception as error:  # decoders do not document their exceptions
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise BadContent(f"its image ({len(data):,} bytes) cannot be decoded: {reason}", kind="bad_image") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an opened image to RGB as `decode_rgb` does; `image` is not changed."""
    return _to_rgb(_upright(image.copy()))


def _check_cost(image: Image.Image, data: bytes) -> None:
    """Refuse an image above the limits on pixels, tile size and scans, before it is decoded."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        raise BadContent(f"its image has {size} pixels, more than {MAX_PIXELS:,}", kind="too_large")
    tags = getattr(image, "tag_v2", {})
    tile = int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0))
    if tile > _MAX_TILE:
        raise BadContent(f"its image has tiles of {tile:,} pixels, more than {_MAX_TILE:,}", kind="too_large")
    is_jpeg = data.startswith(b"\xff\xd8")
    if is_jpeg and (scans := data.count(_START_OF_SCAN)) * pixels > _MAX_SCANNED:
        raise BadContent(f"its image goes over {pixels:,} pixels {scans:,} times", kind="too_large")


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation, unless the EXIF block is broken."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # the pixels are usable without it
        return image
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling
        return Image.fromarray((np.asarray(image).astype(np.uint16) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadContent("its image has 32 bits per channel, for which no range is defined", kind="bad_image")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
