"""Pooling of the features of boxes, each from the level of its size, by the reductions of the levels."""

import math

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import initLevelMapper

from models.detection.pyramid import PyramidBackbone

__all__ = ["AlignedPool", "make_pool"]


class AlignedPool(MultiScaleRoIAlign):  # type: ignore[misc, unused-ignore]
    """Pooling whose cells have their values at their centres, with as many samples as a bin has cells.

    That is the pooling of mmdetection 2: half a cell up and to the left of torchvision's.
    """

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool the features of boxes in pixels: (boxes, C, side, side)."""
        del image_shapes  # the scales are known
        levels = [x[name] for name in self.featmap_names]
        batch = torch.cat([box.new_full((len(box), 1), index) for index, box in enumerate(boxes)])
        rois = torch.cat([batch, torch.cat(boxes)], dim=1)
        of_boxes = self.map_levels(boxes)
        pooled = levels[0].new_zeros(len(rois), levels[0].shape[1], *self.output_size)
        for index, (level, scale) in enumerate(zip(levels, self.scales, strict=True)):
            places = torch.where(of_boxes == index)[0]
            part = roi_align(level, rois[places], self.output_size, scale, sampling_ratio=0, aligned=True)
            pooled[places] = part.to(pooled.dtype)
        return pooled


def make_pool(maps: PyramidBackbone, side: int, *, aligned: bool) -> MultiScaleRoIAlign:
    """Make the pooling of the features of boxes.

    torchvision infers the scales of the levels from the sizes of the first batch, without its padding, which is wrong
    where small images are padded by half; here they follow from the backbone.

    Args:
        maps: Backbone and pyramid.
        side: Cells of the pooled features.
        aligned: True for `AlignedPool`, False for torchvision's.
    """
    pool: MultiScaleRoIAlign = (AlignedPool if aligned else MultiScaleRoIAlign)(maps.map_names, side, 2)
    reductions = maps.level_reductions[: len(maps.map_names)]
    pool.scales = [1 / reduction for reduction in reductions]
    finest, coarsest = (int(math.log2(reductions[place])) for place in (0, -1))
    pool.map_levels = initLevelMapper(finest, coarsest)
    return pool
