"""Augmentation of whole batches on the device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def random_crop(images: Tensor, padding: int) -> Tensor:
    """Pads with zeros and cuts a window of the old size, each image at its own place.

    Shape: images (B, C, H, W) -> (B, C, H, W).

    Args:
        images: Normalised, so that zero is the mean colour.
        padding: Pixels added on every side; 0 returns the images as they are.
    """
    if padding == 0:
        return images
    batch, _, height, width = images.shape
    padded = pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    offsets = torch.randint(0, 2 * padding + 1, (2, batch, 1), device=images.device)
    rows = offsets[0] + torch.arange(height, device=images.device)
    columns = offsets[1] + torch.arange(width, device=images.device)
    index = torch.arange(batch, device=images.device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
