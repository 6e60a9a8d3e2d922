"""Pictures of predictions: masks, boxes and maps of classes over the image, with a legend below it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from orchestrator.data.scenes.drawing import (
    Colour,
    Pixels,
    blend_map,
    blend_masks,
    class_colour,
    draw_box,
    text_font,
)
from orchestrator.data.shown_names import shown_name
from orchestrator.inference.predict.results import (
    ClassifiedImage,
    ClassShare,
    DetectedImage,
    DetectedObject,
    PredictedImage,
    SegmentedImage,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Drawing", "Entry", "draw", "drawn_map", "drawn_objects", "map_legend", "scaled", "with_legend"]

SMALLEST_PX, LARGEST_PX = 384, 2048
"""Longest side of a picture without its legend: smaller images are enlarged in whole pixels, larger ones reduced."""

_TEXT_PX, _ROW_PX, _MARGIN_PX, _SWATCH_PX, _BAR_PX = 13, 18, 6, 12, 100
_MOST_ENTRIES = 20
_NAME_LENGTH = 40
_LINE_SHARE = 0.003  # width of a box's lines over the longest side of the picture
_TEXT_SHARE = 0.018


@dataclass(frozen=True)
class Entry:
    """Line of a legend.

    Args:
        text: Text.
        colour: Colour of the class; None for classes that are not drawn.
        share: Length of a bar, from 0 to 1; None for no bar.
    """

    text: str
    colour: Colour | None = None
    share: float | None = None


@dataclass(frozen=True)
class Drawing:
    """Picture and the lines of its legend.

    Args:
        picture: RGB picture.
        legend: Lines of the legend.
    """

    picture: Image.Image
    legend: tuple[Entry, ...] = ()


def draw(result: PredictedImage, image: Pixels) -> Drawing:
    """Draw a result over its image.

    Args:
        result: Result for the image.
        image: Pixels of the image, (H, W, 3).
    """
    if isinstance(result, ClassifiedImage):
        lines = [
            Entry(f"{each.probability:6.1%}  {_named(each.name)}", None, each.probability) for each in result.classes
        ]
        return Drawing(scaled(image)[0], tuple(lines))
    if isinstance(result, SegmentedImage):
        return Drawing(drawn_map(image, result.class_map), map_legend(result.classes))
    assert isinstance(result, DetectedImage)
    return Drawing(drawn_objects(image, result.objects), _object_legend(result.objects))


def map_legend(classes: Sequence[ClassShare], *, with_shares: bool = True) -> tuple[Entry, ...]:
    """Return the legend of a map of classes.

    Args:
        classes: Classes of the map.
        with_shares: Shows the share of each class.
    """
    if not with_shares:
        return tuple(Entry(_named(each.name), class_colour(each.label)) for each in classes)
    return tuple(
        Entry(f"{each.share:6.1%}  {_named(each.name)}", class_colour(each.label), each.share) for each in classes
    )


def _object_legend(objects: Sequence[DetectedObject]) -> tuple[Entry, ...]:
    counts = Counter((each.label, each.name) for each in objects).most_common()
    lines = [Entry(f"{_named(name)}: {count}", class_colour(label)) for (label, name), count in counts]
    return tuple(lines) or (Entry("no object of this score or above"),)


def drawn_map(
    image: Pixels, class_map: Tensor, *, longest_px: tuple[int, int] = (SMALLEST_PX, LARGEST_PX)
) -> Image.Image:
    """Draw a map of classes over an image.

    Args:
        image: Pixels, (H, W, 3).
        class_map: Class of every pixel, (H, W); 255 is ignored.
        longest_px: Bounds of the longest side of the picture, see `scaled`.
    """
    return scaled(blend_map(image, class_map.numpy()), longest_px)[0]


def drawn_objects(
    image: Pixels,
    objects: Sequence[DetectedObject],
    *,
    with_scores: bool = True,
    longest_px: tuple[int, int] = (SMALLEST_PX, LARGEST_PX),
) -> Image.Image:
    """Draw masks, boxes, names and scores over an image; those of the highest score on top.

    Args:
        image: Pixels, (H, W, 3).
        objects: Objects, the highest score first.
        with_scores: Writes the scores beside the names.
        longest_px: Bounds of the longest side of the picture, see `scaled`.
    """
    ordered = list(objects)[::-1]
    masked = [each for each in ordered if each.mask is not None]
    if masked:
        masks: npt.NDArray[np.bool_] = np.stack([each.mask.numpy() for each in masked if each.mask is not None])
        image = blend_masks(image, masks, [class_colour(each.label) for each in masked])
    picture, scale = scaled(image, longest_px)
    longest = max(picture.size)
    width_px, text_px = max(2, round(_LINE_SHARE * longest)), max(12, round(_TEXT_SHARE * longest))
    for each in ordered:
        score = f": {each.score:.2f}" if with_scores else ""
        box = [value * scale for value in each.box]
        text = f"{_named(each.name)}{score}"
        draw_box(picture, box, class_colour(each.label), text, width_px=width_px, text_px=text_px)
    return picture


def scaled(image: Pixels, longest_px: tuple[int, int] = (SMALLEST_PX, LARGEST_PX)) -> tuple[Image.Image, float]:
    """Return an image as a picture of a size to look at, and its scale.

    Args:
        image: Pixels, (H, W, 3).
        longest_px: Bounds of the longest side: below the first, an image is enlarged by the least whole number that
            reaches it; above the second, it is reduced.
    """
    picture, longest = Image.fromarray(np.ascontiguousarray(image)), max(image.shape[:2])
    least, most = longest_px
    if longest < least:
        factor = max(1, min(-(-least // longest), most // longest))
        size = (picture.width * factor, picture.height * factor)
        return picture.resize(size, Image.Resampling.NEAREST), float(factor)
    if longest <= most:
        return picture, 1.0
    size = (max(1, round(picture.width * most / longest)), max(1, round(picture.height * most / longest)))
    return picture.resize(size, Image.Resampling.BOX), most / longest


def with_legend(drawing: Drawing) -> Image.Image:
    """Return the picture with its legend below; of a long legend the first lines."""
    lines = list(drawing.legend[:_MOST_ENTRIES])
    if len(drawing.legend) > _MOST_ENTRIES:
        lines.append(Entry(f"and {len(drawing.legend) - _MOST_ENTRIES} more"))
    if not lines:
        return drawing.picture
    font = text_font(_TEXT_PX)
    left = _MARGIN_PX + (_SWATCH_PX + _MARGIN_PX if any(line.colour for line in lines) else 0)
    bars = _BAR_PX + _MARGIN_PX if any(line.share is not None for line in lines) else 0
    wide = left + bars + round(max(font.getlength(line.text) for line in lines)) + _MARGIN_PX
    top = drawing.picture.height
    size = (max(wide, drawing.picture.width), top + len(lines) * _ROW_PX + 2 * _MARGIN_PX)
    whole = Image.new("RGB", size, "white")
    whole.paste(drawing.picture, (0, 0))
    pen = ImageDraw.Draw(whole)
    for number, line in enumerate(lines):
        y = top + _MARGIN_PX + number * _ROW_PX
        if line.colour is not None:
            corner = (_MARGIN_PX, y + (_ROW_PX - _SWATCH_PX) // 2)
            pen.rectangle((*corner, corner[0] + _SWATCH_PX - 1, corner[1] + _SWATCH_PX - 1), fill=line.colour)
        if line.share is not None:
            pen.rectangle((left, y + 4, left + _BAR_PX - 1, y + _ROW_PX - 5), fill=(230, 230, 230))
            long = round(_BAR_PX * min(1.0, line.share))
            if long:
                pen.rectangle((left, y + 4, left + long - 1, y + _ROW_PX - 5), fill=line.colour or (0, 114, 178))
        pen.text((left + bars, y + 1), line.text, fill="black", font=font)
    return whole


def _named(name: str) -> str:
    shown = shown_name(name)
    return shown if len(shown) <= _NAME_LENGTH else f"{shown[: _NAME_LENGTH - 3]}..."
