"""Regions of the objects in images: boxes or masks from a file, or the ink of a drawing."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from orchestrator.data.sources.archives import PARSER_FAULTS
from orchestrator.errors import ExplainError, first_line
from orchestrator.inference.images import NetworkImages

__all__ = ["ink", "regions_for"]

_BOX = ("image", "x0", "y0", "x1", "y1")
_INK = 0.5  # share of the largest distance from the background


def regions_for(images: NetworkImages, given: Path | None) -> tuple[Tensor | None, str]:
    """Return the region of each image, (N, H, W), empty where it is unknown, and their origin in words.

    Args:
        images: Images of the network.
        given: Path of a `.csv` of boxes or a `.npz` of masks, see docs/networks/explain.md; None takes the ink of
            images with one channel.

    Raises:
        ExplainError: The file is missing, damaged, of another format, or does not fit the images.
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
    """Return the pixels that differ from the background, the median of the border, by half of the largest difference.

    Shape: pixels (N, 1, H, W) -> (N, H, W), bool.
    """
    plane = pixels[:, 0]
    border = torch.cat([plane[:, 0], plane[:, -1], plane[:, :, 0], plane[:, :, -1]], dim=1)
    distance = (plane - border.median(1).values[:, None, None]).abs()
    largest = distance.amax((1, 2), keepdim=True)
    return (distance >= _INK * largest) & (largest > 0)


def _masks(images: NetworkImages, path: Path) -> Tensor:
    """Read masks of all images of the split, in the size of the network's input."""
    try:
        with np.load(path) as file:
            if "masks" not in file:
                raise ExplainError(f"--regions {path}: has no array 'masks' but {', '.join(file.files) or 'none'}")
            masks = file["masks"]
        side = tuple(images.pixels.shape[2:])
        if masks.ndim != 3 or masks.shape[1:] != side or len(masks) <= max(images.positions):
            rule = f"(images of the split, {side[0]}, {side[1]}), at least {max(images.positions) + 1} of them"
            raise ExplainError(f"--regions {path}: masks has the shape {masks.shape}; it is to be {rule}")
        return torch.from_numpy(masks[list(images.positions)] > 0)
    except ExplainError:
        raise
    except PARSER_FAULTS as error:
        reason = first_line(error) or type(error).__name__
        raise ExplainError(f"--regions {path}: cannot be read as a .npz of numbers ({reason})") from None


def _boxes(images: NetworkImages, path: Path) -> Tensor:
    """Read boxes in pixels of the stored images, and convert them to the network's input."""
    height, width = images.pixels.shape[2:]
    regions = torch.zeros(len(images.positions), height, width, dtype=torch.bool)
    places = {position: index for index, position in enumerate(images.positions)}
    for image, corners in _rows(path):
        if image in places:
            x0, y0, x1, y1 = _after_crop(images, places[image], corners)
            regions[places[image], _cells(y0, y1, height), _cells(x0, x1, width)] = True
    return regions


def _rows(path: Path) -> Iterator[tuple[int, list[float]]]:
    """Yield position of the image and corners x0, y0, x1, y1 of each row of a file of boxes."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not set(_BOX) <= set(rows.fieldnames or ()):
                raise ExplainError(f"--regions {path}: its first line is to name the columns {', '.join(_BOX)}")
            for number, row in enumerate(rows, start=2):
                try:
                    image, corners = int(row["image"]), [float(row[name]) for name in _BOX[1:]]
                except (TypeError, ValueError):
                    image, corners = -1, [math.nan]
                if not all(map(math.isfinite, corners)):
                    raise ExplainError(f"--regions {path}: line {number} does not hold five finite numbers")
                yield image, corners
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ExplainError(f"--regions {path}: cannot be read as a .csv in UTF-8 ({first_line(error)})") from None


def _cells(begin: float, end: float, length: int) -> slice:
    """Return the pixels between two coordinates, within the image."""
    first, last = (round(min(max(side, 0.0), length)) for side in (begin, end))
    return slice(first, last)


def _after_crop(images: NetworkImages, index: int, corners: list[float]) -> list[float]:
    """Convert corners x0, y0, x1, y1 to coordinates after the resizing and the centre crop of image files."""
    if images.sizes_px is None:
        return corners
    size, side = images.sizes_px[index], images.pixels.shape[-1]
    scale = int(side / images.crop_pct) / min(size)
    left, top = ((length * scale - side) / 2 for length in size)
    return [corner * scale - shift for corner, shift in zip(corners, (left, top, left, top), strict=True)]
