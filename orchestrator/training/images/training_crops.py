"""Conversion of an image file to a training crop by torchvision's kernels, with the draws and the pixels of timm.

timm's transforms resize and change colours with Pillow. Here JPEG files are decoded and resized by torchvision, whose
kernels use vector instructions; crops, mirroring and colours are drawn by timm's own transforms in the same order, so
that both give the same sample up to rounding.
"""

from __future__ import annotations

import functools
import random
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import ColorJitter, Compose, InterpolationMode
from torchvision.transforms.v2 import functional

from orchestrator.data.decoding import EncodedImage
from orchestrator.training.images.colour_jitter import jitter_colours

__all__ = ["TrainingCrops", "resized_as_by_pillow"]

_DIVISORS = (8, 4, 2)
_KEPT = 2
"""Least ratio of the sides of a crop that is decoded at a smaller size to those of the result."""


class TrainingCrops:
    """Random crop, mirroring and colours of an image file: bytes -> uint8 (3, image_size, image_size).

    Args:
        crop: timm's crop and what follows it on the cropped image.
        colours: timm's transforms of colours; those other than `ColorJitter` are computed by Pillow.
        scaled_decoding: Decodes a JPEG file at 1/2, 1/4 or 1/8 of its size where the sides of the crop keep twice those
            of the result; its pixels differ from those of a whole decoding.
    """

    def __init__(self, crop: Compose, colours: Compose, *, scaled_decoding: bool) -> None:
        self._crop, *self._after = crop.transforms
        assert isinstance(self._crop, RandomResizedCropAndInterpolation)  # the first of timm's training transforms
        self._colours = colours.transforms
        self._scaled_decoding = scaled_decoding

    def __call__(self, content: bytes) -> Tensor:
        """Convert an image file; draws from the random states of this process.

        Raises:
            ImageError: It cannot be decoded.
        """
        pixels = self._cropped(EncodedImage(content))
        for step in self._after:
            pixels = step(pixels)
        for step in self._colours:
            pixels = jitter_colours(pixels, step) if isinstance(step, ColorJitter) else _by_pillow(pixels, step)
        return pixels

    def _cropped(self, image: EncodedImage) -> Tensor:
        """Decode an image and return a crop of it, uint8, (3, H, W), channels last in memory."""
        crop = self._crop
        size = torch.empty(3, image.height, image.width, device="meta")  # all that the draw reads
        top, left, height, width = crop.get_params(size, crop.scale, crop.ratio)
        modes = crop.interpolation
        mode = random.choice(modes) if isinstance(modes, tuple | list) else modes  # noqa: S311 - drawn as timm draws it
        divisor = self._divisor(height, width)
        rows = torch.from_numpy(image.pixels(divisor))
        if divisor > 1:
            top, height = _scaled(top, height, rows.shape[0] / image.height)
            left, width = _scaled(left, width, rows.shape[1] / image.width)
        region = rows[top : top + height, left : left + width].contiguous()  # torch resizes it twice as fast as a view
        return resized_as_by_pillow(region.permute(2, 0, 1), crop.size, mode)

    def _divisor(self, height: int, width: int) -> int:
        if not self._scaled_decoding:
            return 1
        rows, columns = self._crop.size
        most = min(height / rows, width / columns) / _KEPT
        return next((each for each in _DIVISORS if each <= most), 1)


def resized_as_by_pillow(pixels: Tensor, size: tuple[int, int], mode: InterpolationMode) -> Tensor:
    """Resize with antialiasing to within 2 levels of what Pillow computes: uint8 (3, H, W) -> (3, *size).

    Args:
        pixels: Pixels, channels last in memory.
        size: Height and width of the result.
        mode: Bilinear or bicubic interpolation.
    """
    rows, columns = size
    resize = functools.partial(functional.resize, interpolation=mode, antialias=True)
    height, width = pixels.shape[1:]
    if height > rows and height - rows > 2 * (width - columns) and _pillow_starts_with_rows():
        pixels = resize(pixels, [rows, width])  # values are cut to 0..255 in between, so that the order counts
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
