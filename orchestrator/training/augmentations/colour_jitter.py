"""Random brightness, contrast and saturation of one image, with Pillow's arithmetic and in half its time.

Each change is an interpolation between the image and a plainer one, computed in float32 and cut to whole levels, as
Pillow computes it. One value in some hundred thousand differs by a level, where a sum is rounded once, not twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import ColorJitter
from torchvision.transforms.functional import adjust_hue

__all__ = ["ColourStep", "change_colours", "drawn_colours"]

ColourStep = tuple[int, float]
"""Kind of a change, 0 brightness, 1 contrast, 2 saturation or 3 hue, and its factor."""

_GREY = (19595.0, 38470.0, 7471.0)  # ITU-R 601-2 in units of 1 / 65536; sums stay below 2**24, exact in float32


def drawn_colours(jitter: ColorJitter) -> list[ColourStep]:
    """Draw changes of colours as torchvision's transform draws them, in their order."""
    order, *factors = jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    return [(step, factors[step]) for step in order.tolist() if factors[step] is not None]


def change_colours(pixels: Tensor, steps: Sequence[ColourStep]) -> Tensor:
    """Change the colours of an image: uint8 (3, H, W) -> uint8 (3, H, W), on the CPU channels last in memory.

    Args:
        pixels: Pixels, on any device.
        steps: Changes, in their order.
    """
    for step, factor in steps:
        if step == 3:
            pixels = adjust_hue(_pixels(_planes(pixels)), factor)
        else:
            planes = (_brightness, _contrast, _saturation)[step](_planes(pixels), factor)
            pixels = planes if factor <= 1 else planes.clamp_(0, 255)  # an interpolation does not leave 0..255
    return _pixels(pixels)


def _planes(pixels: Tensor) -> Tensor:
    """Return whole levels as float32 (3, H, W), a plane after the other in memory, which broadcasts grey faster."""
    if pixels.is_floating_point():
        return pixels.floor_()
    return pixels.to(torch.float32, memory_format=torch.contiguous_format)


def _pixels(planes: Tensor) -> Tensor:
    """Drop what is after the point: uint8 (3, H, W); on the CPU by NumPy, in a quarter of torch's time."""
    if not planes.is_floating_point():
        return planes
    if planes.device.type != "cpu":
        return planes.to(torch.uint8)
    levels = planes.numpy().astype(np.uint8)
    pixels = np.empty((*levels.shape[1:], len(levels)), np.uint8)
    for channel, plane in enumerate(levels):
        pixels[:, :, channel] = plane
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _brightness(planes: Tensor, factor: float) -> Tensor:
    return planes.mul_(factor)


def _contrast(planes: Tensor, factor: float) -> Tensor:
    mean = _grey(planes).mean(dtype=torch.float64).add_(0.5).floor_()  # not read, for which a GPU would be waited for
    return planes.sub_(mean).mul_(factor).add_(mean)


def _saturation(planes: Tensor, factor: float) -> Tensor:
    grey = _grey(planes)
    return torch.add(grey, planes.sub_(grey), alpha=factor, out=planes)


def _grey(planes: Tensor) -> Tensor:
    """Return the whole grey levels of an image, float32 (H, W)."""
    red, green, blue = _GREY
    grey = torch.mul(planes[0], red).add_(planes[1], alpha=green).add_(planes[2], alpha=blue)
    return grey.add_(32768.0).mul_(1 / 65536).floor_()
