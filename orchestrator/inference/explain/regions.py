"""Where the object of an image is: boxes or masks from a file, or the ink of a drawing."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from orchestrator.errors import ExplainError
from orchestrator.inference.images import NetworkImages

__all__ = ["ink", "regions_for"]

_BOX = ("image", "x0", "y0", "x1", "y1")
_INK = 0.5  # of the largest distance from the background


def regions_for(images: NetworkImages, given: Path | None) -> tuple[Tensor | None, str]:
    """The region of each image, (N, H, W), empty where it is not known; and where it is from, in words.

    Args:
        images: As the network sees them.
        given: A `.csv` of boxes or a `.npz` of masks, see docs/explain.md; None takes the ink of images of one channel.

    Raises:
        ExplainError: The file is missing or is none of the two.
    """
    if given is None:
        is_drawing = images.pixels.shape[1] == 1
        return (ink(images.pixels), "ink") if is_drawing else (None, "unknown: give boxes or masks with --regions")
    if not given.is_file():
        raise ExplainError(f"--regions {given}: no such file")
    if given.suffix == ".npz":
        return _masks(images, given), f"masks of {given.name}"
    if given.suffix == ".csv":
        return _boxes(images, given), f"boxes of {given.name}"
    raise ExplainError(f"--regions {given}: give a .csv of boxes or a .npz of masks")


def ink(pixels: Tensor) -> Tensor:
    """What differs from the background, the median of the border, by half of the largest difference or more.

    Shape: pixels (N, 1, H, W) -> (N, H, W), true on ink.
    """
    plane = pixels[:, 0]
    border = torch.cat([plane[:, 0], plane[:, -1], plane[:, :, 0], plane[:, :, -1]], dim=1)
    distance = (plane - border.median(1).values[:, None, None]).abs()
    largest = distance.amax((1, 2), keepdim=True)
    return (distance >= _INK * largest) & (largest > 0)


def _masks(images: NetworkImages, path: Path) -> Tensor:
    """Of every image of the split, as the network sees it."""
    with np.load(path) as file:
        if "masks" not in file:
            raise ExplainError(f"--regions {path}: has no array 'masks' but {', '.join(file.files) or 'none'}")
        masks = file["masks"]
    side = tuple(images.pixels.shape[2:])
    if masks.ndim != 3 or masks.shape[1:] != side or len(masks) <= max(images.positions):
        rule = f"(images of the split, {side[0]}, {side[1]}), at least {max(images.positions) + 1} of them"
        raise ExplainError(f"--regions {path}: masks has the shape {masks.shape}; it is to be {rule}")
    return torch.from_numpy(masks[list(images.positions)] > 0)


def _boxes(images: NetworkImages, path: Path) -> Tensor:
    """Boxes in pixels of the images as they are stored, brought to what the network sees of them."""
    height, width = images.pixels.shape[2:]
    regions = torch.zeros(len(images.positions), height, width, dtype=torch.bool)
    places = {position: index for index, position in enumerate(images.positions)}
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        if not set(_BOX) <= set(rows.fieldnames or ()):
            raise ExplainError(f"--regions {path}: its first line is to name the columns {', '.join(_BOX)}")
        for number, row in enumerate(rows, start=2):
            try:
                image, *corners = int(row["image"]), *(float(row[name]) for name in _BOX[1:])
            except (TypeError, ValueError):
                raise ExplainError(f"--regions {path}: line {number} does not hold five numbers") from None
            if image in places:
                x0, y0, x1, y1 = _seen(images, places[image], corners)
                regions[places[image], max(0, round(y0)) : max(0, round(y1)), max(0, round(x0)) : max(0, round(x1))] = (
                    True
                )
    return regions


def _seen(images: NetworkImages, index: int, corners: list[float]) -> list[float]:
    """Corners x0, y0, x1, y1 behind the resizing and the centre crop of image files."""
    if images.sizes_px is None:
        return corners
    size, side = images.sizes_px[index], images.pixels.shape[-1]
    scale = int(side / images.crop_pct) / min(size)
    left, top = ((length * scale - side) / 2 for length in size)
    return [corner * scale - shift for corner, shift in zip(corners, (left, top, left, top), strict=True)]
