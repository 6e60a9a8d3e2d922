"""Drawing of boxes, masks and maps of classes on images; the colour of a class depends on its number alone.

Colours are the seven of Okabe and Ito, which colour-blind readers distinguish, then their lighter and darker forms.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from orchestrator.data.scenes.target import IGNORED

__all__ = ["Colour", "Pixels", "blend_map", "blend_masks", "class_colour", "draw_box", "text_font"]

Pixels = npt.NDArray[np.uint8]
"""Image, (H, W, 3)."""

Colour = tuple[int, int, int]

_BACKGROUND: Colour = (110, 110, 110)
_HUES: tuple[Colour, ...] = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((0, 114, 178), (213, 94, 0), (204, 121, 167)),
)
_TONES = ((0, 0.0), (255, 0.5), (0, 0.45))  # grey to mix with, and its share
_MASK_OPACITY, _MAP_OPACITY = 0.45, 0.65
_LUMINANCE = (0.299, 0.587, 0.114)
_BRIGHT = 140.0  # black text is read better on a brighter colour
_PADDING_PX = 2


def class_colour(label: int) -> Colour:
    """Return the colour of a class: grey for 0, the background of objects; labels of objects begin with 1."""
    if label <= 0:
        return _BACKGROUND
    place = label - 1
    grey, share = _TONES[place // len(_HUES) % len(_TONES)]
    red, green, blue = (round((1 - share) * value + share * grey) for value in _HUES[place % len(_HUES)])
    return red, green, blue


def blend_masks(image: Pixels, masks: npt.NDArray[np.generic], colours: Sequence[Colour]) -> Pixels:
    """Return an image with masks drawn over it, one after the other.

    Args:
        image: Pixels, (H, W, 3).
        masks: Masks of objects, (N, H, W), of zeros and ones or bool.
        colours: Colour of each mask.
    """
    blended = image.copy()
    for mask, colour in zip(masks, colours, strict=True):
        inside = mask.astype(bool)
        mixed = (1 - _MASK_OPACITY) * blended[inside] + _MASK_OPACITY * np.asarray(colour)
        blended[inside] = mixed.round().astype(np.uint8)
    return blended


def blend_map(image: Pixels, class_map: npt.NDArray[np.generic]) -> Pixels:
    """Return an image with the colours of its classes drawn over it; ignored pixels become darker.

    Args:
        image: Pixels, (H, W, 3).
        class_map: Class of every pixel, (H, W).
    """
    table = np.asarray([class_colour(label) for label in range(IGNORED)] + [(0, 0, 0)], np.float32)
    mixed: npt.NDArray[np.float32] = table[class_map]
    mixed *= _MAP_OPACITY
    mixed += (1 - _MAP_OPACITY) * image.astype(np.float32)
    return mixed.round().astype(np.uint8)


def draw_box(
    picture: Image.Image, box: Sequence[float], colour: Colour, text: str = "", *, width_px: int = 1, text_px: int = 10
) -> None:
    """Draw a box into a picture, with a text above it or, without room, in its upper left corner.

    Args:
        picture: RGB picture, which is changed.
        box: Corners x1, y1, x2, y2 in pixels of the picture; the second corner is exclusive.
        colour: Colour of the box, and of the ground of the text.
        text: Text; empty for none.
        width_px: Width of the lines in pixels.
        text_px: Size of the letters in pixels.
    """
    x1, y1, x2, y2 = (float(value) for value in box)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=width_px)
    if not text:
        return
    font = text_font(text_px)
    _, _, wide, high = (round(edge) for edge in draw.textbbox((0, 0), text, font=font))
    wide, high = wide + 2 * _PADDING_PX, high + 2 * _PADDING_PX
    left = max(0, min(round(x1), picture.width - wide))
    top = round(y1) - high if y1 >= high else max(0, min(round(y1), picture.height - high))
    draw.rectangle((left, top, left + wide - 1, top + high - 1), fill=colour)
    is_bright = sum(share * value for share, value in zip(_LUMINANCE, colour, strict=True)) > _BRIGHT
    draw.text((left + _PADDING_PX, top + _PADDING_PX), text, fill="black" if is_bright else "white", font=font)


@lru_cache(16)
def text_font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of all texts; Pillow's own, so that it is the same on every machine."""
    return ImageFont.load_default(size_px)
