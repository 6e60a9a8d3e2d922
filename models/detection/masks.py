"""Mask branches of a cascade, one for each stage, whose features may flow from stage to stage.

Source: Chen et al. 2019, "Hybrid Task Cascade for Instance Segmentation" (arXiv 1901.07518), and Mask R-CNN's branch of
torchvision.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

__all__ = ["MaskBranch", "flow", "mean_of_class"]


class MaskBranch(nn.Module):
    """Four 3x3 convolutions, a transposed one that doubles the side, and a mask for each class.

    Shape: x (N, in_chs, h, w), from_before (N, channels, h, w) or None -> features (N, channels, h, w).

    Args:
        in_chs: Channels of the pooled features.
        channels: Channels of the convolutions.
        num_logits: Masks of a box, background included.
        receives: True for a 1x1 convolution of the features of the branch before, which is added to the input.
    """

    def __init__(self, in_chs: int, channels: int, num_logits: int, *, receives: bool) -> None:
        super().__init__()
        self.receive = nn.Sequential(nn.Conv2d(channels, in_chs, 1), nn.ReLU(inplace=True)) if receives else None
        self.head = MaskRCNNHeads(in_chs, (channels,) * 4, dilation=1)
        self.predictor = MaskRCNNPredictor(channels, channels, num_logits)

    def forward(self, x: Tensor, from_before: Tensor | None = None) -> Tensor:
        """Compute the features ahead of the predictor."""
        if self.receive is not None and from_before is not None:
            x = x + self.receive(from_before)
        y: Tensor = self.head(x)
        return y


def flow(branches: Sequence[MaskBranch], pooled: Tensor) -> list[Tensor]:
    """Pass pooled features through branches, each of which receives the features of the one before it.

    Args:
        branches: Mask branches, from the first stage on.
        pooled: Pooled features (N, in_chs, h, w).

    Returns:
        Features (N, channels, h, w) of each branch, ahead of its predictor.
    """
    features: list[Tensor] = []
    for branch in branches:
        features.append(branch(pooled, features[-1] if features else None))
    return features


def mean_of_class(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Average the masks of the stages, each that of the class of its box: (N, 1, side, side), in [0, 1]."""
    index = torch.arange(len(labels), device=labels.device)
    chosen = [stage[index, labels].sigmoid() for stage in logits]
    return torch.stack(chosen).mean(0)[:, None]
