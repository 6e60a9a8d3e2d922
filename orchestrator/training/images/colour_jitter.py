"""Random brightness, contrast and saturation of one image, with Pillow's arithmetic and in half its time.

Each change is an interpolation between the image and a plainer one, computed in float32 and cut to whole levels, as
Pillow computes it; results are equal bit by bit.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import ColorJitter
from torchvision.transforms.functional import adjust_hue

__all__ = ["jitter_colours"]

_GREY = (19595.0, 38470.0, 7471.0)  # ITU-R 601-2 in units of 1 / 65536; sums stay below 2**24, exact in float32


def jitter_colours(pixels: Tensor, jitter: ColorJitter) -> Tensor:
    """Change colours at random: uint8 (3, H, W) -> uint8 (3, H, W), channels last in memory.

    Args:
        pixels: Pixels, channels last in memory.
        jitter: Ranges of the changes, which are drawn as this transform draws them.
    """
    order, *factors = jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    steps = [(int(step), factors[step]) for step in order if factors[step] is not None]
    if not steps:
        return pixels
    planes = _planes(pixels)
    for step, factor in steps:
        if step == 3:
            planes = _planes(adjust_hue(_pixels(planes), factor))
        else:
            (_brightness_, _contrast_, _saturation_)[step](planes, factor)
    return _pixels(planes)


def _planes(pixels: Tensor) -> Tensor:
    """Convert pixels to float32 (3, H, W), a plane after the other in memory, which broadcasts grey values faster."""
    return pixels.to(torch.float32, memory_format=torch.contiguous_format)


def _pixels(planes: Tensor) -> Tensor:
    """Convert whole levels to uint8 (3, H, W), channels last in memory; NumPy does so in a quarter of torch's time."""
    levels = planes.numpy().astype(np.uint8)
    pixels = np.empty((*levels.shape[1:], len(levels)), np.uint8)
    for channel, plane in enumerate(levels):
        pixels[:, :, channel] = plane
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _brightness_(planes: Tensor, factor: float) -> None:
    _cut_(planes.mul_(factor), factor)


def _contrast_(planes: Tensor, factor: float) -> None:
    grey = _grey(planes)
    mean = int(grey.mean(dtype=torch.float64).item() + 0.5)
    _cut_(planes.sub_(mean).mul_(factor).add_(mean), factor)


def _saturation_(planes: Tensor, factor: float) -> None:
    grey = _grey(planes)
    _cut_(planes.sub_(grey).mul_(factor).add_(grey), factor)


def _grey(planes: Tensor) -> Tensor:
    """Return the whole grey levels of an image, float32 (H, W)."""
    red, green, blue = _GREY
    grey = torch.mul(planes[0], red).add_(planes[1], alpha=green).add_(planes[2], alpha=blue)
    return grey.add_(32768.0).mul_(1 / 65536).floor_()


def _cut_(planes: Tensor, factor: float) -> None:
    """Cut to 0..255, which an interpolation cannot leave, and drop what is after the point."""
    if factor > 1:
        planes.clamp_(0, 255)
    planes.floor_()
