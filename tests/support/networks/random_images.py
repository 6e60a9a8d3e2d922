"""Random images as the input of a network."""

from __future__ import annotations

import torch

from orchestrator.inference.images import NetworkImages
from tests.support.networks.tiny_networks import SIDE


def noise(count: int = 6, *, channels: int = 3, side: int = SIDE) -> NetworkImages:
    """Return random images with labels, as `explain` reads them."""
    torch.manual_seed(0)
    pixels = torch.rand(count, channels, side, side)
    labels = torch.arange(count) % 3
    return NetworkImages(pixels * 2 - 1, pixels, labels, tuple(range(count)), "noise", "test")
