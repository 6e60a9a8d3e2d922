"""Semantic FPN: a feature pyramid, each level brought to the finest one in steps, their sum classified.

Source: Kirillov et al. 2019, "Panoptic Feature Pyramid Networks" (arXiv 1901.02446), the semantic branch.
Differs: any number of levels and any reductions; a step is as large as the next reduction is coarser.
"""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork

from models.segmentation.layers import NormedConv, resized_to

__all__ = ["SemanticFPNHead"]


class SemanticFPNHead(nn.Module):
    """Feature pyramid and head.

    A level that is n times halved, compared with the finest one, passes n times through a 3x3 convolution, norm, ReLU
    and an upsampling to the size of the next finer level; the finest level, and one of its size, passes through one
    convolution without upsampling.

    Shape: maps (B, channels[i], H[i], W[i]) -> (B, num_classes, H[0], W[0]).

    Args:
        channels: Channels of the maps.
        reductions: Side of the images over that of each map.
        num_classes: Classes.
        fpn_channels: Channels of the pyramid.
        head_channels: Channels of the head.
        dropout: Dropout of whole channels ahead of the classifier.
        norm: Norm of the head, see `NormedConv`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        reductions: Sequence[int],
        num_classes: int,
        *,
        fpn_channels: int = 256,
        head_channels: int = 128,
        dropout: float = 0.1,
        norm: str = "groupnorm",
    ) -> None:
        super().__init__()
        self.fpn = FeaturePyramidNetwork(list(channels), fpn_channels)
        self.finer: list[list[int]] = []
        self.branches = nn.ModuleList()
        for index, reduction in enumerate(reductions):
            targets = [i for i in range(index) if reductions[i] < reduction]
            steps = [i for i in targets if i == 0 or reductions[i - 1] != reductions[i]][::-1]
            self.finer.append(steps)
            convs = [
                NormedConv(head_channels if done else fpn_channels, head_channels, 3, norm=norm)
                for done in range(max(1, len(steps)))
            ]
            self.branches.append(nn.ModuleList(convs))
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(head_channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Compute the logits at the size of the finest map."""
        levels = list(self.fpn({str(index): level for index, level in enumerate(maps)}).values())
        total: Tensor | None = None
        for level, convs, steps in zip(levels, self.branches, self.finer, strict=True):
            x = level
            for place, conv in enumerate(cast(nn.ModuleList, convs)):
                x = conv(x)
                if steps:
                    x = resized_to(x, levels[steps[place]])
            total = x if total is None else total + x
        logits: Tensor = self.classify(self.dropout(total))
        return logits
