"""Semantic branch of HTC: classes of things and stuff over a fused map, whose features join those of the boxes.

Source: Chen et al. 2019, "Hybrid Task Cascade for Instance Segmentation" (arXiv 1901.07518).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align

from models.common.options import ModelOptionError, OptionProblem

__all__ = ["SemanticBranch"]

IGNORED = 255
POOLED_SIDE = 14  # cells of the features of a box


class SemanticBranch(nn.Module):
    """Sum of the levels of a pyramid at the size of one of them, convolutions, an embedding and class logits.

    Shape: levels (B, channels, h, w) -> embedding (B, channels, h, w) and logits (B, num_classes, h, w), of the level
    of fusion.

    Args:
        channels: Channels of the pyramid.
        num_classes: Classes of the class maps.
        level_reductions: Side of the images over that of each level.
        fusion_level: Index of the level of fusion.
        depth: 3x3 convolutions behind the sum.
    """

    def __init__(
        self, channels: int, num_classes: int, *, level_reductions: Sequence[int], fusion_level: int = 1, depth: int = 4
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.fusion_level = min(fusion_level, len(level_reductions) - 1)
        self.reduction = level_reductions[self.fusion_level]
        self.laterals = nn.ModuleList([_conv(channels, channels, 1) for _ in level_reductions])
        self.convs = nn.Sequential(*[_conv(channels, channels, 3) for _ in range(depth)])
        self.embed = _conv(channels, channels, 1)
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Fuse the levels, convolve, embed and classify."""
        size = levels[self.fusion_level].shape[-2:]
        fused = torch.zeros_like(levels[self.fusion_level])
        for lateral, level in zip(self.laterals, levels, strict=True):
            resized = functional.interpolate(level, size=size, mode="bilinear", align_corners=True)
            fused = fused + lateral(resized)
        fused = self.convs(fused)
        return self.embed(fused), self.classify(fused)

    def loss(self, logits: Tensor, targets: Sequence[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        """Compute the mean cross-entropy over the cells with a class, zero without any, and the number of these cells.

        Args:
            logits: Class logits (B, num_classes, h, w).
            targets: Targets with a `class_map` (H, W); 255 is ignored, as is padding.

        Raises:
            ModelOptionError: A target has no class map, or one with classes beyond `num_classes`.
        """
        height, width = logits.shape[-2:]
        wanted = logits.new_full((len(targets), height * self.reduction, width * self.reduction), IGNORED).long()
        for index, target in enumerate(targets):
            if "class_map" not in target:
                rule = "the semantic branch trains on a class_map in every target"
                remedy = "Add class maps to the data, or use semantic_classes=None."
                raise ModelOptionError([OptionProblem("class_map", sorted(target), rule, remedy)])
            class_map = target["class_map"]
            wanted[index, : class_map.shape[0], : class_map.shape[1]] = class_map
        beyond = wanted[(wanted != IGNORED) & ((wanted >= self.num_classes) | (wanted < 0))]
        if beyond.numel():
            rule = f"the semantic branch has {self.num_classes} classes, from 0"
            remedy = "Set semantic_classes to the classes of the class maps; 255 is ignored."
            raise ModelOptionError([OptionProblem("class_map", int(beyond[0]), rule, remedy)])
        cells = functional.interpolate(wanted[:, None].float(), size=(height, width), mode="nearest")[:, 0].long()
        losses = functional.cross_entropy(logits, cells, ignore_index=IGNORED, reduction="sum")
        count = (cells != IGNORED).sum()
        return losses / count.clamp_min(1), count

    def pool(self, embedding: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Pool the embedding of boxes in pixels: (boxes, channels, 14, 14)."""
        pooled: Tensor = roi_align(embedding, list(boxes), POOLED_SIDE, 1 / self.reduction, aligned=True)
        return pooled


def _conv(in_chs: int, out_chs: int, side: int) -> nn.Sequential:
    """Make a convolution and a ReLU."""
    return nn.Sequential(nn.Conv2d(in_chs, out_chs, side, padding=side // 2), nn.ReLU(inplace=True))
