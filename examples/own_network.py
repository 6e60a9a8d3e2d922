"""A network of your own in a file, which a sweep names as `own_network.py:make_network`.

`spatialsweep run examples/own_network.yaml` searches its arguments, beside networks of timm and of SpatialSweep. The
sweep records this file and sends it to every worker: it has to be one file, and import what all nodes have installed.
"""

import torch
from torch import Tensor, nn


class GatedBlock(nn.Module):
    """Depthwise convolution, times a gate that each pixel computes from its own channels.

    Shape: x (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.gate = nn.Conv2d(width, width, 1)
        self.mix = nn.Conv2d(width, width, kernel_size, padding="same", groups=width)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Add the gated neighbourhood to the input."""
        normed = self.norm(x)
        return x + self.project(torch.sigmoid(self.gate(normed)) * self.mix(normed))


def make_network(
    num_classes: int, in_chans: int, *, width: int = 32, depth: int = 4, kernel_size: int = 3, drop_rate: float = 0.0
) -> nn.Module:
    """Build the network: classes and channels follow from the dataset, all else are options of the sweep.

    Args:
        num_classes: Outputs.
        in_chans: Channels of the images.
        width: Channels of every map.
        depth: Number of blocks.
        kernel_size: Side of the depthwise convolutions.
        drop_rate: Dropout before the classifier.
    """
    blocks = [GatedBlock(width, kernel_size) for _ in range(depth)]
    return nn.Sequential(
        nn.Conv2d(in_chans, width, 3, padding=1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(drop_rate),
        nn.Linear(width, num_classes),
    )
