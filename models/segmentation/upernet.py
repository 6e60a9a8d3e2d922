"""UPerNet: pyramid pooling of the coarsest map, a top-down path, all levels fused at the finest one.

Source: Xiao et al. 2018, "Unified Perceptual Parsing for Scene Understanding" (arXiv 1807.10221).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.segmentation.layers import NormedConv, resized_to

__all__ = ["POOL_SCALES", "AuxiliaryHead", "PyramidPooling", "UPerHead"]

POOL_SCALES = (1, 2, 3, 6)


class PyramidPooling(nn.Module):
    """Averages over grids of several sizes, each projected and resized, beside the map.

    Shape: x (B, in_chs, H, W) -> (B, out_chs, H, W).

    Args:
        in_chs: Channels of the map.
        out_chs: Channels of each projection, and of the output.
        scales: Sides of the grids in cells.
        norm: Norm, see `NormedConv`.
    """

    def __init__(self, in_chs: int, out_chs: int, *, scales: Sequence[int], norm: str) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.projections = nn.ModuleList([NormedConv(in_chs, out_chs, 1, norm=norm) for _ in scales])
        self.fuse = NormedConv(in_chs + len(self.scales) * out_chs, out_chs, 3, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Pool, project, resize, fuse."""
        grids = [
            resized_to(project(functional.adaptive_avg_pool2d(x, scale)), x)
            for scale, project in zip(self.scales, self.projections, strict=True)
        ]
        y: Tensor = self.fuse(torch.cat([x, *grids], dim=1))
        return y


class UPerHead(nn.Module):
    """Pyramid pooling, top-down path and fusion.

    Shape: maps (B, channels[i], H[i], W[i]) -> (B, num_classes, H[0], W[0]).

    Args:
        channels: Channels of the maps.
        num_classes: Classes.
        head_channels: Channels of the head.
        pool_scales: Sides of the grids of the pyramid pooling, in cells.
        dropout: Dropout of whole channels ahead of the classifier.
        norm: Norm of the head, see `NormedConv`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        head_channels: int = 512,
        pool_scales: Sequence[int] = POOL_SCALES,
        dropout: float = 0.1,
        norm: str = "batchnorm",
    ) -> None:
        super().__init__()
        *finer, last = channels
        self.pooling = PyramidPooling(last, head_channels, scales=pool_scales, norm=norm)
        self.laterals = nn.ModuleList([NormedConv(chs, head_channels, 1, norm=norm) for chs in finer])
        self.smooth = nn.ModuleList([NormedConv(head_channels, head_channels, 3, norm=norm) for _ in finer])
        self.fuse = NormedConv(len(channels) * head_channels, head_channels, 3, norm=norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(head_channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Compute the logits at the size of the finest map."""
        *finer, last = maps
        path = [lateral(x) for lateral, x in zip(self.laterals, finer, strict=True)] + [self.pooling(last)]
        for index in range(len(path) - 1, 0, -1):
            path[index - 1] = path[index - 1] + resized_to(path[index], path[index - 1])
        smooth = [conv(x) for conv, x in zip(self.smooth, path[:-1], strict=True)] + [path[-1]]
        fused = self.fuse(torch.cat([resized_to(x, smooth[0]) for x in smooth], dim=1))
        logits: Tensor = self.classify(self.dropout(fused))
        return logits


class AuxiliaryHead(nn.Module):
    """One 3x3 convolution and a classifier, on one map, for a second loss in training.

    Shape: x (B, in_chs, H, W) -> (B, num_classes, H, W).

    Args:
        in_chs: Channels of the map.
        num_classes: Classes.
        head_channels: Channels of the convolution.
        dropout: Dropout of whole channels ahead of the classifier.
        norm: Norm, see `NormedConv`.
    """

    def __init__(
        self, in_chs: int, num_classes: int, *, head_channels: int = 256, dropout: float = 0.1, norm: str = "batchnorm"
    ) -> None:
        super().__init__()
        self.conv = NormedConv(in_chs, head_channels, 3, norm=norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(head_channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        logits: Tensor = self.classify(self.dropout(self.conv(x)))
        return logits
