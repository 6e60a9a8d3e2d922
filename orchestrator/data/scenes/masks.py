"""Masks of objects: polygons and run lengths of COCO, by the mask functions of faster-coco-eval.

The library checks run lengths against the size of the mask; coordinates of polygons must be bounded by the caller,
since the memory for drawing grows with the length of an edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np
import numpy.typing as npt

from orchestrator.data.shown_names import one_line
from orchestrator.errors import DataError

__all__ = ["MaskError", "check_run_lengths", "decode_masks", "encode_mask", "mask_area", "polygon_mask", "run_lengths"]

Mask = npt.NDArray[np.uint8]
MOST_MASK_BYTES = 4 << 30
"""Largest size of the decoded masks of one image; COCO's need 30 MB at most."""

_FAULTS = (ValueError, RuntimeError, TypeError, OverflowError, MemoryError)


class MaskError(ValueError):
    """Run lengths or polygons that are no mask of the announced size; the text is the reason."""


def encode_mask(mask: Mask) -> bytes:
    """Return the compressed run lengths of a mask, (H, W), of zeros and ones."""
    encoded: bytes = _library().encode(np.asfortranarray(mask))["counts"]
    return encoded


def polygon_mask(polygons: Sequence[npt.NDArray[np.float64]], height: int, width: int) -> bytes:
    """Return the compressed run lengths of the union of polygons, as COCO's own functions draw them.

    Args:
        polygons: Coordinates x, y, x, y, ... of each polygon, at least three points.
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.
    """
    library = _library()
    drawn = library.frPyObjects([polygon.tolist() for polygon in polygons], height, width)
    encoded: bytes = (drawn[0] if len(drawn) == 1 else library.merge(drawn))["counts"]
    return encoded


def run_lengths(counts: Sequence[int], height: int, width: int) -> bytes:
    """Return uncompressed run lengths in compressed form.

    Args:
        counts: Lengths of the alternating runs of zeros and ones, column by column.
        height: Height of the mask, in pixels.
        width: Width of the mask, in pixels.

    Raises:
        MaskError: A length is negative or no whole number, or they do not add up to the pixels of the mask.
    """
    if any(type(count) is not int or count < 0 for count in counts):
        raise MaskError("its run lengths are not all whole numbers from 0")
    if sum(counts) != height * width:
        raise MaskError(f"its run lengths add up to {sum(counts)} px, its size {height} x {width} to {height * width}")
    encoded: bytes = _library().frPyObjects({"size": [height, width], "counts": list(counts)}, height, width)["counts"]
    return encoded


def check_run_lengths(counts: bytes, height: int, width: int) -> None:
    """Check compressed run lengths against the size of their mask.

    Raises:
        MaskError: They are damaged, or those of a mask of another size.
    """
    decode_masks([counts], height, width)


def decode_masks(counts: Sequence[bytes], height: int, width: int) -> Mask:
    """Return masks of one image, (N, H, W), of zeros and ones.

    Args:
        counts: Compressed run lengths of each mask.
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.

    Raises:
        MaskError: Run lengths are damaged, or those of a mask of another size.
    """
    if not counts:
        return np.zeros((0, height, width), np.uint8)
    if len(counts) * height * width > MOST_MASK_BYTES:
        raise MaskError(f"{len(counts)} masks of {height} x {width} px take more than {MOST_MASK_BYTES >> 30} GiB")
    library = _library()
    given = [{"size": [height, width], "counts": each} for each in counts]
    try:
        stacked, enclosing = library.decode(given), library.toBbox(given)
    except _FAULTS as error:
        raise MaskError(f"its run lengths are no mask of {height} x {width} px ({one_line(error)})") from None
    masks = np.zeros((len(counts), height, width), np.uint8)
    # The library's columns are contiguous: turning a whole mask into rows takes as long as decoding it.
    for number, (left, top, wide, high) in enumerate(np.asarray(enclosing, np.int64).reshape(-1, 4).tolist()):
        window = (slice(top, top + high), slice(left, left + wide))
        masks[number][window] = stacked[..., number][window]
    return masks


def mask_area(counts: Sequence[bytes], height: int, width: int) -> npt.NDArray[np.float32]:
    """Return the number of pixels of each mask, float32, (N,)."""
    sizes = [{"size": [height, width], "counts": each} for each in counts]
    return np.asarray(_library().area(sizes) if sizes else [], np.float32)


def _library() -> ModuleType:
    try:
        from faster_coco_eval.core import mask
    except ModuleNotFoundError:
        raise DataError(
            "masks of objects need faster-coco-eval. Install it: pip install 'spatialsweep[detection]'"
        ) from None
    found: ModuleType = mask
    return found
