"""Checks of single entries of COCO's annotations: image, box and segmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from orchestrator.data.decoding import MOST_PIXELS
from orchestrator.data.scenes.masks import MaskError, check_run_lengths, run_lengths
from orchestrator.data.shown_names import brief, is_utf8, shown_name
from orchestrator.errors import UnsafePathError
from orchestrator.files.contained_paths import plain_name

__all__ = ["Fault", "checked_box", "checked_number", "checked_path", "checked_segmentation", "checked_size", "is_id"]

TOLERANCE_PX = 1.0
"""Distance that a box or a polygon may reach out of its image, as rounding does; such boxes are clipped."""

_NUMBERS = frozenset((int, float))
_LARGEST_ID = (1 << 63) - 1
_LONGEST_SIDE = 1 << 16
_SHORTEST_POLYGON = 6
_NOTABLE_PX = 0.01
_SMALL_PX = TOLERANCE_PX + 0.01
"""Side below which a box may lose its area when it is clipped or rounded."""


@dataclass(eq=False)
class Fault(Exception):  # noqa: N818 - a finding that is listed, not an error that ends the conversion
    """Faulty entry.

    Args:
        kind: Kind of fault.
        reason: Given value and rule.
    """

    kind: str
    reason: str


def is_id(value: object) -> TypeGuard[int]:
    """Check whether a value is a whole number from 0 of at most 63 bits."""
    return type(value) is int and 0 <= value <= _LARGEST_ID


def checked_path(name: object) -> str:
    """Return the path of an image relative to its folder.

    Raises:
        Fault: It is no text, absolute, or leads out of the folder.
    """
    if not isinstance(name, str) or not is_utf8(name):
        raise Fault("unsafe path", f"has the file_name {brief(name)}, which is no text")
    parts = name.removeprefix("./").split("/")
    try:
        for part in parts:
            plain_name(part, "part")
    except UnsafePathError:
        raise Fault("unsafe path", f"has the file_name {shown_name(name)}, which leaves its folder") from None
    return str(PurePosixPath(*parts))


def checked_size(width: object, height: object) -> tuple[int, int]:
    """Return width and height of an image.

    Raises:
        Fault: They are no whole numbers of a size that an image can have.
    """
    for side in (width, height):
        if type(side) is not int or not 1 <= side <= _LONGEST_SIDE:
            raise Fault(
                "impossible size", f"has the size {brief(width)} x {brief(height)}; sides are whole numbers from 1"
            )
    assert isinstance(width, int)
    assert isinstance(height, int)
    if width * height > MOST_PIXELS:
        raise Fault("impossible size", f"has the size {width} x {height}, more than {MOST_PIXELS} px in all")
    return width, height


def checked_number(value: object, what: str) -> float:
    """Return a finite number.

    Raises:
        Fault: It is no number, infinite or not a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Fault("no number", f"{what} is {brief(value)}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Fault("not finite", f"{what} is {number}")
    return number


def checked_box(bbox: object, width: int, height: int) -> tuple[tuple[float, float, float, float], bool]:
    """Return the corners of a box, clipped to its image, and True if that changed it notably.

    Args:
        bbox: Left, top, width and height in pixels, as given.
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.

    Raises:
        Fault: It is missing, not finite, empty, or outside the image by more than a pixel.
    """
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise Fault("no box", f"bbox is {brief(bbox)}; [left, top, width, height] is expected")
    try:
        left, top, wide, high = (checked_number(value, "a value") for value in bbox)
    except Fault as fault:
        raise Fault(fault.kind, f"bbox {brief(bbox)}: {fault.reason}") from None
    if wide <= 0 or high <= 0:
        raise Fault("empty box", f"bbox {_shown(bbox)} has no area")
    right, bottom = left + wide, top + high
    outside = max(-left, -top, right - width, bottom - height)
    if outside > TOLERANCE_PX:
        raise Fault("box outside the image", f"bbox {_shown(bbox)} leaves its image of {width} x {height} px")
    corners = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    if min(right - left, bottom - top) < _SMALL_PX and _is_empty(corners):
        raise Fault("empty box", f"bbox {_shown(bbox)} has no area within its image of {width} x {height} px")
    return corners, outside > _NOTABLE_PX


def checked_segmentation(
    given: object, width: int, height: int
) -> tuple[list[npt.NDArray[np.float64]] | bytes | None, bool]:
    """Return polygons, or compressed run lengths, or None without a mask; and True if short polygons were left out.

    Args:
        given: Value of `segmentation`.
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.

    Raises:
        Fault: It is not a mask of its image.
    """
    if given is None or given == []:
        return None, False
    if isinstance(given, dict):
        return _checked_runs(given, width, height), False
    if not isinstance(given, list) or not all(isinstance(polygon, list) for polygon in given):
        raise Fault("no mask", f"segmentation is {brief(given)}; polygons or run lengths are expected")
    polygons = [_polygon(polygon, width, height) for polygon in given if len(polygon) >= _SHORTEST_POLYGON]
    if not polygons:
        raise Fault("no mask", f"segmentation {brief(given)} has no polygon of three points")
    return polygons, len(polygons) < len(given)


def _polygon(values: Sequence[Any], width: int, height: int) -> npt.NDArray[np.float64]:
    if len(values) % 2:
        raise Fault("no mask", f"a polygon has {len(values)} coordinates, an odd number")
    try:
        plain = set(map(type, values)) <= _NUMBERS
        points = np.array(values if plain else [math.nan], np.float64)
    except OverflowError:
        points = np.array([math.inf])
    if not np.isfinite(points).all():
        raise Fault("not finite", f"a polygon has coordinates that are no finite numbers ({brief(values)})")
    low, high = points.min(), max(points[::2].max() - width, points[1::2].max() - height)
    if max(-low, high) > TOLERANCE_PX:
        raise Fault(
            "mask outside the image", f"a polygon leaves its image of {width} x {height} px by {max(-low, high):.4g} px"
        )
    return points


def _checked_runs(given: dict[str, Any], width: int, height: int) -> bytes:
    size, counts = given.get("size"), given.get("counts")
    if size != [height, width]:
        raise Fault(
            "mask of another size", f"mask has the size {brief(size)}, its image {height} x {width} (height, width)"
        )
    try:
        if isinstance(counts, list):
            return run_lengths(counts, height, width)
        if not isinstance(counts, str) or not counts.isascii():
            raise MaskError(f"its run lengths are {brief(counts)}")
        check_run_lengths(counts.encode(), height, width)
    except MaskError as error:
        raise Fault("damaged mask", str(error)) from None
    return counts.encode()


def _is_empty(corners: Sequence[float]) -> bool:
    """Check whether a box has no area in the precision in which it is stored."""
    stored = np.asarray(corners, np.float32)
    return not (stored[2:] > stored[:2]).all()


def _shown(box: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"
