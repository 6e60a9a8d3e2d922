"""Conversion of an image file to a training crop by torchvision's kernels, with the draws and the pixels of timm.

timm's transforms resize and change colours with Pillow. Here JPEG files are decoded and resized by torchvision, whose
kernels use vector instructions; crops, mirroring and colours are drawn by timm's own transforms in the same order, so
that both give the same sample up to rounding.
"""

from __future__ import annotations

import functools
import random
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import ColorJitter, Compose, InterpolationMode
from torchvision.transforms.v2 import functional

from orchestrator.data.decoding import EncodedImage
from orchestrator.training.augmentations.colour_jitter import ColourStep, change_colours, drawn_colours

__all__ = ["Draw", "TrainingCrops", "resized_as_by_pillow"]

_DIVISORS = (8, 4, 2)
_KEPT = 2
"""Least ratio of the sides of a crop that is decoded at a smaller size to those of the result."""


class Draw(NamedTuple):
    """Changes of one training image, without those that Pillow draws and computes.

    Args:
        top: First row of the crop.
        left: First column of the crop.
        height: Height of the crop, in pixels of the image.
        width: Width of the crop, in pixels of the image.
        mode: Interpolation, a value of torchvision's `InterpolationMode`.
        mirrored: The crop is mirrored.
    """

    top: int
    left: int
    height: int
    width: int
    mode: str
    mirrored: bool


class TrainingCrops:
    """Random crop, mirroring and colours of an image file: bytes -> uint8 (3, image_size, image_size).

    Args:
        crop: timm's crop, and the mirroring after it where there is some.
        colours: timm's transforms of colours; those other than `ColorJitter` are computed by Pillow.
        scaled_decoding: Decodes a JPEG file at 1/2, 1/4 or 1/8 of its size where the sides of the crop keep twice those
            of the result; its pixels differ from those of a whole decoding.

    Attributes:
        size: Height and width of the result.
    """

    def __init__(self, crop: Compose, colours: Compose, *, scaled_decoding: bool) -> None:
        self._crop, *flips = crop.transforms
        assert isinstance(self._crop, RandomResizedCropAndInterpolation)  # the first of timm's training transforms
        self._mirrored = sum(flip.p for flip in flips)  # one at most
        self._colours = colours.transforms
        self._scaled_decoding = scaled_decoding
        self.size: tuple[int, int] = self._crop.size

    def __call__(self, content: bytes) -> Tensor:
        """Convert an image file; draws from the random states of this process.

        Raises:
            ImageError: It cannot be decoded.
        """
        return self.changed(EncodedImage(content))

    def changed(self, image: EncodedImage) -> Tensor:
        """Convert an image file whose header has been read; see `__call__`."""
        draw = self.draw(image)
        pixels = self._cropped(image, draw)
        if draw.mirrored:
            pixels = pixels.flip(2)
        for step in self._colours:
            if isinstance(step, ColorJitter):
                pixels = change_colours(pixels, drawn_colours(step))
            else:
                pixels = _by_pillow(pixels, step)
        return pixels

    def draw(self, image: EncodedImage) -> Draw:
        """Draw the crop of an image and whether it is mirrored, as timm's transforms draw them."""
        crop = self._crop
        size = torch.empty(3, image.height, image.width, device="meta")  # all that the draw reads
        top, left, height, width = crop.get_params(size, crop.scale, crop.ratio)
        # of an image of one or two pixels timm may draw a crop without any, which Pillow makes black
        region = min(top, image.height - 1), min(left, image.width - 1), max(height, 1), max(width, 1)
        modes = crop.interpolation
        mode = random.choice(modes) if isinstance(modes, tuple | list) else modes  # noqa: S311 - drawn as timm draws it
        mirrored = bool(self._mirrored and torch.rand(1) < self._mirrored)
        return Draw(*region, mode.value, mirrored)

    def draw_colours(self) -> list[ColourStep]:
        """Draw the changes of colours, after `draw`; only where Pillow computes none of them."""
        return [change for step in self._colours for change in drawn_colours(step)]

    def _cropped(self, image: EncodedImage, draw: Draw) -> Tensor:
        """Decode an image and return a crop of it, uint8, (3, H, W), channels last in memory."""
        top, left, height, width = draw[:4]
        divisor = self._divisor(height, width)
        rows = torch.from_numpy(image.pixels(divisor))
        if divisor > 1:
            top, height = _scaled(top, height, rows.shape[0] / image.height)
            left, width = _scaled(left, width, rows.shape[1] / image.width)
        region = rows[top : top + height, left : left + width].contiguous()  # torch resizes it faster than a view
        return resized_as_by_pillow(region.permute(2, 0, 1), self.size, InterpolationMode(draw.mode))

    def _divisor(self, height: int, width: int) -> int:
        if not self._scaled_decoding:
            return 1
        rows, columns = self.size
        most = min(height / rows, width / columns) / _KEPT
        return next((each for each in _DIVISORS if each <= most), 1)


def resized_as_by_pillow(pixels: Tensor, size: tuple[int, int], mode: InterpolationMode) -> Tensor:
    """Resize with antialiasing to within 2 levels of what Pillow computes: uint8 (3, H, W) -> (3, *size).

    Args:
        pixels: Pixels, on the CPU channels last in memory.
        size: Height and width of the result.
        mode: Bilinear or bicubic interpolation.
    """
    rows, columns = size
    resize = functools.partial(functional.resize, interpolation=mode, antialias=True)
    height, width = pixels.shape[1:]
    # Values are cut to 0..255 between the passes, so that their order counts; a GPU would not cut them.
    if height > rows and height - rows > 2 * (width - columns) and _pillow_starts_with_rows():
        pixels = resize(pixels, [rows, width])
    elif pixels.device.type != "cpu":
        pixels = resize(pixels, [height, columns])
    resized: Tensor = resize(pixels, [rows, columns])
    return resized


@functools.cache
def _pillow_starts_with_rows() -> bool:
    """Return True where Pillow, as version 13 does, resizes the number of rows first if that leaves less to compute."""
    high = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 20, 3), dtype=np.uint8))
    bicubic = Image.Resampling.BICUBIC
    rows_first = high.resize((20, 16), bicubic).resize((16, 16), bicubic)
    return rows_first.tobytes() == high.resize((16, 16), bicubic).tobytes()


def _scaled(start: int, length: int, ratio: float) -> tuple[int, int]:
    """Return start and length of a part of a side that is decoded at a ratio of its length."""
    first, last = round(start * ratio), round((start + length) * ratio)
    return first, max(1, last - first)


def _by_pillow(pixels: Tensor, step: Any) -> Tensor:
    """Apply a transform of Pillow's images: uint8 (3, H, W), channels last in memory."""
    changed: Image.Image = step(Image.fromarray(pixels.permute(1, 2, 0).numpy()))
    return torch.from_numpy(np.array(changed)).permute(2, 0, 1)
