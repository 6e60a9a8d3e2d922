"""Changes of the colours of whole batches of RGB images on their device, every sample with its own random numbers.

Both work on pixels in 0..255 before the normalisation, for small images and for image files alike.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from orchestrator.training.images.draws import SampleDraws

__all__ = ["rotate_hues", "shift_colours_"]

# Principal components of the colours of ImageNet's training images, of pixels in [0, 1]: square roots of the variances
# and, in columns, their directions in red, green and blue.
_DEVIATIONS = np.array([0.2175, 0.0188, 0.0045])
_DIRECTIONS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

_CACHED_PIXELS = 1 << 16  # whose intermediate results fit into a CPU's cache, which doubles the speed


def rotate_hues(pixels: Tensor, largest: float, draws: SampleDraws) -> Tensor:
    """Rotate the hue of each image by a random angle; value and saturation stay.

    Shape: pixels (B, 3, H, W), in 0..255 -> float32 (B, 3, H, W).

    Args:
        pixels: Red, green and blue.
        largest: Largest rotation in both directions, as a share of the circle, at most 0.5.
        draws: Random numbers of these images.
    """
    turns = torch.from_numpy((2 * draws.uniform("hue")[:, 0] - 1) * largest).float().to(pixels.device)
    rotated = torch.empty(pixels.shape, device=pixels.device)
    at_once = max(1, _CACHED_PIXELS // pixels[0, 0].numel()) if pixels.device.type == "cpu" else len(pixels)
    parts = (tensor.split(at_once) for tensor in (pixels, turns, rotated))
    for some, own_turns, target in zip(*parts, strict=True):
        _rotate(some.float().contiguous(), own_turns, target)
    return rotated


def _rotate(rgb: Tensor, turns: Tensor, target: Tensor) -> None:
    """Write images with rotated hues to a target: float32 (B, 3, H, W), turns (B,) as shares of the circle."""
    red, green, blue = rgb.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = chroma.clamp(min=torch.finfo(chroma.dtype).tiny)  # grey has no hue: its chroma is 0 at any
    beside_green = (blue - red).add_(divisor, alpha=2)
    beside_blue = (red - green).add_(divisor, alpha=4)
    sixth = torch.where(value == red, green - blue, torch.where(value == green, beside_green, beside_blue))
    sixth.div_(divisor).add_(6 * turns[:, None, None])
    for channel, offset in enumerate((5, 3, 1)):  # places of red, green and blue on the circle of six parts
        place = (sixth + offset).remainder_(6)
        distance = torch.minimum(place, 4 - place).clamp_(0, 1)
        torch.sub(value, distance.mul_(chroma), out=target[:, channel])


def shift_colours_(pixels: Tensor, deviation: float, draws: SampleDraws) -> Tensor:
    """Add to each image, in place, one random colour along the principal components of ImageNet's colours.

    Results may lie outside 0..255, as in AlexNet.

    Args:
        pixels: Red, green and blue in 0..255, float32, (B, 3, H, W).
        deviation: Standard deviation of the factor of each component.
        draws: Random numbers of these images.
    """
    factors = draws.normal("lighting", 3) * deviation
    shift = 255 * (factors * _DEVIATIONS) @ _DIRECTIONS.T
    return pixels.add_(torch.from_numpy(shift).float().to(pixels.device)[:, :, None, None])
