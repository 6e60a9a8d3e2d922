"""Maps of classes as image files: one index a pixel, grey or by a palette."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

from orchestrator.data.decoding import MOST_PIXELS, ImageError
from orchestrator.data.scenes.target import IGNORED, ClassMap
from orchestrator.data.shown_names import one_line

__all__ = ["class_pixels", "decode_class_map", "encode_class_map", "encode_grey"]

_FORMATS = ("PNG", "PPM")


def decode_class_map(content: bytes) -> ClassMap:
    """Decode a map to its indices, uint8, (H, W); the colours of a palette have no meaning.

    Args:
        content: Bytes of a PNG or PGM file.

    Raises:
        ImageError: It is no such file, cut, too large, or has colours or more than 8 bits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                if image.mode not in ("L", "P"):
                    raise ImageError(
                        f"is no map of classes: it has the mode {image.mode}, not 8 bits of grey or palette"
                    )
                if image.width * image.height > MOST_PIXELS:
                    raise ImageError(f"has {image.width} x {image.height} px, more than {MOST_PIXELS} in all")
                return np.array(image, np.uint8)
    except ImageError:
        raise
    except Exception as error:  # Pillow's parsers raise a dozen kinds for damaged files
        raise ImageError(f"cannot be read as a map of classes ({one_line(error)})") from None


def encode_class_map(class_map: ClassMap) -> bytes:
    """Return a map as a grey PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(class_map)).save(buffer, "PNG")
    return buffer.getvalue()


def encode_grey(values: ClassMap) -> bytes:
    """Return grey values as a PGM file, whose bytes depend on no library."""
    height, width = values.shape
    return b"P5 %d %d 255\n" % (width, height) + np.ascontiguousarray(values, np.uint8).tobytes()


def class_pixels(class_map: ClassMap, classes: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the number of pixels of each class.

    Args:
        class_map: Classes from 0, or `IGNORED`, (H, W).
        classes: Number of classes.

    Raises:
        ImageError: A pixel has another value.
    """
    counts = np.bincount(class_map.reshape(-1), minlength=IGNORED + 1)
    strange = [value for value in np.flatnonzero(counts).tolist() if classes <= value != IGNORED]
    if strange:
        raise ImageError(
            f"its map has {int(counts[strange[0]])} pixels of class {strange[0]}; there are {classes} classes from 0, "
            f"and {IGNORED} is ignored"
        )
    return counts[:classes].astype(np.int64)
