"""Sizes, crops and padding as torchvision v2 transforms, with the arithmetic of the papers' detection libraries.

Randomness is drawn from torch's generator, which the caller seeds for every image.

Source: mmcv 1 `rescale_size` for the rounding of sizes; mmsegmentation 0.19 for multi-scale and `cat_max_ratio`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import (
    functional,
    query_size,
)

from orchestrator.training.augmentations.samples import IGNORED, ClassMap

__all__ = ["ClassCrop", "KeepRatioResize", "PadRight", "keep_ratio_size", "padded_size"]

_TRIES = 10


def keep_ratio_size(size: tuple[int, int], short_px: int, long_px: int) -> tuple[int, int]:
    """Return the largest size of the same ratio whose sides are within two bounds, each rounded to a pixel.

    Args:
        size: Height and width, in pixels.
        short_px: Bound of the shorter side.
        long_px: Bound of the longer side.
    """
    factor = min(long_px / max(size), short_px / min(size))
    height, width = (max(1, int(side * factor + 0.5)) for side in size)
    return height, width


def padded_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return the smallest size not below another whose sides are multiples of a number of pixels."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


class KeepRatioResize(v2.Transform):
    """Resize to within two bounds, both multiplied by a random factor.

    Args:
        short_px: Bound of the shorter side, in pixels.
        long_px: Bound of the longer side, in pixels.
        factors: Smallest and largest factor, drawn evenly; equal numbers draw nothing.
    """

    def __init__(self, short_px: int, long_px: int, factors: tuple[float, float] = (1.0, 1.0)) -> None:
        super().__init__()
        self.short_px, self.long_px, self.factors = short_px, long_px, factors

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Return the new size."""
        low, high = self.factors
        factor = low if low == high else low + (high - low) * float(torch.rand(()))
        bounds = int(self.short_px * factor), int(self.long_px * factor)
        return {"size": list(keep_ratio_size(query_size(flat_inputs), *bounds))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize an image bilinearly with antialiasing, masks and class maps to the nearest pixel."""
        return self._call_kernel(functional.resize, inpt, params["size"], antialias=True)


class ClassCrop(v2.Transform):
    """Crop at random, where possible without one class that fills most of the crop.

    A side that is shorter than the crop is kept whole. After ten crops that one class fills, or that hold a single
    class, the eleventh is taken.

    Args:
        size_px: Side of the crop, in pixels.
        cat_max_ratio: Largest share of one class among the pixels that are not ignored; 1 accepts every crop.
    """

    def __init__(self, size_px: int, cat_max_ratio: float = 1.0) -> None:
        super().__init__()
        self.size_px, self.cat_max_ratio = size_px, cat_max_ratio

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the crop."""
        size = query_size(flat_inputs)
        crop = self._draw(size)
        class_map = next((each for each in flat_inputs if isinstance(each, ClassMap)), None)
        if class_map is None or self.cat_max_ratio >= 1:
            return crop
        pixels = class_map.as_subclass(Tensor)
        for _ in range(_TRIES):
            if self._is_mixed(pixels, **crop):
                break
            crop = self._draw(size)
        return crop

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut an image or its annotations."""
        return self._call_kernel(functional.crop, inpt, **params)

    def _draw(self, size: tuple[int, int]) -> dict[str, int]:
        height, width = (min(side, self.size_px) for side in size)
        top = int(torch.randint(size[0] - height + 1, ()))
        left = int(torch.randint(size[1] - width + 1, ()))
        return {"top": top, "left": left, "height": height, "width": width}

    def _is_mixed(self, class_map: Tensor, top: int, left: int, height: int, width: int) -> bool:
        part = class_map[top : top + height, left : left + width].reshape(-1)
        counts = torch.bincount(part.long(), minlength=IGNORED + 1)
        counts[IGNORED] = 0
        return int(counts.count_nonzero()) > 1 and float(counts.max() / counts.sum()) < self.cat_max_ratio


class PadRight(v2.Transform):
    """Pad at the right and at the bottom: images and masks with 0, class maps with 255.

    Args:
        size_px: Smallest height and width after padding, in pixels.
        multiple: Number of pixels that divides height and width after padding.
    """

    def __init__(self, size_px: int = 1, multiple: int = 1) -> None:
        super().__init__()
        self.size_px, self.multiple = size_px, multiple

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Return the padding of each side."""
        height, width = query_size(flat_inputs)
        below, right = padded_size((max(height, self.size_px), max(width, self.size_px)), self.multiple)
        return {"padding": [0, 0, right - width, below - height]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Pad an image or its annotations."""
        if not any(params["padding"]):
            return inpt
        fill = IGNORED if isinstance(inpt, ClassMap) else 0
        return self._call_kernel(functional.pad, inpt, params["padding"], fill=fill)
