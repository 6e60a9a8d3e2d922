"""Decoding of image files to RGB pixels, the same for preparation, training and display.

Modes that Pillow would silently turn into wrong colours are converted here as their format specifies, or rejected.
JPEG files of three colours may be decoded by torchvision, which gives the same pixels in less time; Pillow reads their
header, checks it, and decodes all other files and those that torchvision refuses.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError, features

from orchestrator.data.shown_names import one_line

__all__ = ["ENDINGS", "EncodedImage", "ImageError", "decode_image", "image_size"]

Pixels = npt.NDArray[np.uint8]
"""Pixels of an image, uint8, (H, W, 3)."""

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
_UPRIGHT_PIXELS: Mapping[int, Callable[[Pixels], Pixels]] = MappingProxyType(
    {
        2: lambda pixels: pixels[:, ::-1],
        3: lambda pixels: pixels[::-1, ::-1],
        4: lambda pixels: pixels[::-1],
        5: lambda pixels: pixels.swapaxes(0, 1),
        6: lambda pixels: np.rot90(pixels, -1),
        7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90,
    }
)
"""The same as `_UPRIGHT`, of pixels."""
_SIDEWAYS = (5, 6, 7, 8)
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
    with _opened(io.BytesIO(content)) as image:
        if reduced_px is not None:
            image.draft("RGB", (reduced_px, reduced_px))
        orientation = _orientation(image)
        rgb = _rgb(image)
        return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def image_size(content: io.BytesIO | io.BufferedReader) -> tuple[int, int]:
    """Return width and height in pixels of an upright image, from its header.

    Raises:
        ImageError: It is not an image file.
    """
    with _opened(content) as image:
        return _upright_size(image)


class EncodedImage:
    """An image file whose header has been read and checked.

    Args:
        content: Bytes of the file, as for `decode_image`.

    Attributes:
        content: Bytes of the file.
        width: Width of the upright image, in pixels.
        height: Height of the upright image, in pixels.
        is_plain_jpeg: True for a JPEG file of three colours that is stored upright.

    Raises:
        ImageError: It is not an image, or too large.
    """

    def __init__(self, content: bytes) -> None:
        with _opened(io.BytesIO(content)) as image:
            self._plain = image.format == "JPEG" and image.mode == "RGB"
            self._orientation = _orientation(image)
            self._stored = image.height, image.width, 3
            self.width, self.height = _upright_size(image)
            self.is_plain_jpeg = self._plain and self._orientation not in _UPRIGHT
        self.content = content

    def pixels(self, divisor: int = 1) -> Pixels:
        """Decode the image, upright, uint8, (H, W, 3).

        Args:
            divisor: 1, 2, 4 or 8: a JPEG file is decoded at this part of its size, rounded up; other files are not
                reduced.

        Raises:
            ImageError: It is cut, or holds values of unknown range.
        """
        if divisor > 1:
            return np.array(decode_image(self.content, reduced_px=max(1, min(self.width, self.height) // divisor)))
        decoded = self._by_torchvision() if self._plain else None
        return np.array(decode_image(self.content)) if decoded is None else decoded

    def _by_torchvision(self) -> Pixels | None:
        """Return the pixels of a JPEG file of three colours; None where torchvision cannot decode it."""
        import torch  # many commands read headers alone, and need no torch

        try:
            from torchvision.io import ImageReadMode, decode_jpeg  # deprecated since 0.29

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                planes = decode_jpeg(torch.frombuffer(bytearray(self.content), dtype=torch.uint8), ImageReadMode.RGB)
        except (RuntimeError, ImportError):  # Pillow decodes it, or states the reason
            return None
        stored: Pixels = planes.permute(1, 2, 0).numpy()
        if stored.shape != self._stored:
            raise ImageError(f"has {stored.shape[1]} x {stored.shape[0]} px, and its header announces another size")
        turn = _UPRIGHT_PIXELS.get(self._orientation)
        return stored if turn is None else turn(stored).copy()  # a single row stays a view of itself otherwise


@contextmanager
def _opened(content: io.BytesIO | io.BufferedReader) -> Iterator[Image.Image]:
    """Open an image file and check its size; errors of the block become `ImageError`."""
    try:
        with warnings.catch_warnings():
            _set_warnings()
            with Image.open(content, formats=_FORMATS) as image:
                _check_size(image)
                yield image
    except ImageError:
        raise
    except Exception as error:  # Pillow's parsers raise a dozen kinds for damaged files
        raise ImageError(_reason(error)) from None


def _upright_size(image: Image.Image) -> tuple[int, int]:
    return (image.height, image.width) if _orientation(image) in _SIDEWAYS else (image.width, image.height)


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
