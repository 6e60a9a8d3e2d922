"""Trained network with the normalisation it was trained with."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PixelModel"]


class PixelModel(nn.Module):
    """Network that reads pixels scaled to [0, 1] and normalises them itself.

    Shape: x (B, C, H, W) in [0, 1] -> (B, num_classes) logits, in the order of `class_names`. A detector also takes a
    list of images (C, H, W) of any size, and returns a dictionary for each image; its label 1 is the first class.

    Args:
        network: Trained network, as `load_model` returns it.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.
        class_names: Names of the classes, one per logit.
    """

    def __init__(
        self, network: nn.Module, mean: Sequence[float], std: Sequence[float], class_names: Sequence[str]
    ) -> None:
        super().__init__()
        self.network = network
        self.class_names = tuple(class_names)
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor | list[Tensor]) -> Any:
        """Normalise the pixels and apply the network."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        if isinstance(x, list):
            return self.network([(image - mean[0]) / std[0] for image in x])
        return self.network((x - mean) / std)
