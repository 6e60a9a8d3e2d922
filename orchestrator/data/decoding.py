"""Decoding of image files to RGB pixels, the same for preparation, training and display.

Modes that Pillow would silently turn into wrong colours are converted here as their format specifies, or rejected.
"""

from __future__ import annotations

import io
import warnings
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from orchestrator.data.shown_names import one_line

__all__ = ["ENDINGS", "ImageError", "decode_image", "image_size"]

MOST_PIXELS = 89_478_485
"""Largest number of pixels of an image, 256 MiB decoded; the limit of Pillow."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF", *(("AVIF",) if features.check("avif") else ()))
"""Accepted formats; others run programs (EPS) or hold vector graphics."""

ENDINGS = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".gif"]
    + ([".avif"] if "AVIF" in _FORMATS else [])
)

_REFUSED = MappingProxyType(
    {
        "F": "holds floating-point values, of unknown range",
        "I": "holds 32-bit integers, of unknown range",
        "LAB": "holds CIELAB values, which Pillow cannot convert",
    }
)
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
_UPRIGHT = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)
_BACKGROUND = (255, 255, 255, 255)


class ImageError(ValueError):
    """Bytes that are not a readable image, or whose colours are ambiguous; the text is the reason."""


def decode_image(content: bytes, *, reduced_px: int | None = None) -> Image.Image:
    """Decode an image file to an upright RGB image.

    16-bit grey is scaled to 8 bits, transparent parts become white, the orientation in EXIF is applied, and the first
    frame of an animation is taken.

    Args:
        content: Bytes of a JPEG, PNG, WebP, AVIF, BMP, PPM, TIFF or GIF file.
        reduced_px: Sufficient side in pixels: a JPEG file may be decoded at a smaller size, which is faster; all of
            its bytes are read.

    Raises:
        ImageError: It is not an image, cut, too large, or holds values of unknown range.
    """
    try:
        with warnings.catch_warnings():
            _set_warnings()
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                _check_size(image)
                if reduced_px is not None:
                    image.draft("RGB", (reduced_px, reduced_px))
                orientation = _orientation(image)
                rgb = _rgb(image)
        return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb
    except ImageError:
        raise
    except Exception as error:  # Pillow's parsers raise a dozen kinds for damaged files
        raise ImageError(_reason(error)) from None


def image_size(content: io.BytesIO | io.BufferedReader) -> tuple[int, int]:
    """Return width and height in pixels of an upright image, from its header.

    Raises:
        ImageError: It is not an image file.
    """
    try:
        with warnings.catch_warnings():
            _set_warnings()
            with Image.open(content, formats=_FORMATS) as image:
                _check_size(image)
                width, height = image.size
                turned = _orientation(image) in (5, 6, 7, 8)
        return (height, width) if turned else (width, height)
    except ImageError:
        raise
    except Exception as error:  # as above
        raise ImageError(_reason(error)) from None


def _set_warnings() -> None:
    """Make warnings about the size errors, and ignore others, which do not concern the pixels (such as EXIF)."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise ImageError(f"has {image.width} x {image.height} px, more than {MOST_PIXELS} in all")


def _orientation(image: Image.Image) -> int:
    """Return the orientation in EXIF; upright where EXIF cannot be read, and for TIFF, which Pillow rotates itself."""
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # as above; the pixels are whole
        return 1
    return value if isinstance(value, int) else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _scaled(image).convert("RGB")
    if image.mode in _REFUSED:
        raise ImageError(f"{_REFUSED[image.mode]} ({image.format}, mode {image.mode}); save it with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, _BACKGROUND), rgba).convert("RGB")
    return image.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """Scale grey values of up to 16 bits to 8 bits."""
    values = np.asarray(image).astype(np.int64)
    tags: Any = getattr(image, "tag_v2", {})
    bits = int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
    most = (1 << bits) - 1
    if values.size and not 0 <= values.min() <= values.max() <= most:
        raise ImageError(f"holds values from {values.min()} to {values.max()}, not 0 to {most}")
    grey = ((values * 255 + most // 2) // most).astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey)  # 0: white is zero


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "is no image file, or one of a format that is not read"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"has more than {MOST_PIXELS} pixels: {str(error).partition(',')[0]}"
    return one_line(error)
