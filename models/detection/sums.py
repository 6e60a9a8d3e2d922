"""Losses of a detector as sums with the number of samples they are over, which add up over batches and ranks.

torchvision's losses are means over the samples of a batch, whose number differs from batch to batch: the mean of means
over ranks is not the mean over all samples. A sum and its count are added over ranks, then divided once.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet

from models.common.weight_decay import declared_without_decay
from models.detection.cascade import CascadeHeads
from models.detection.sampling import ImageSampler, StepDraws

__all__ = ["SummedFasterRCNN", "SummedMaskRCNN", "SummedRetinaNet", "loss_counts", "sum_and_count"]

Target = dict[str, Tensor]


class _Summed(nn.Module):
    """Base of detectors: seeds of the step, and losses as sums where they are wanted.

    Attributes:
        draws: Seeds of the step, for the samplers of the network.
        loss_sums: True for each loss as a tensor of its sum and its count; False for its mean, as in torchvision.
    """

    draws: StepDraws
    loss_sums: bool

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> Any:
        """Compute the losses by name in training, the detections otherwise; see `create_detector`."""
        self.draws.begin(targets if self.training else None)
        results = super().forward(images, targets)
        if not (self.training and self.loss_sums):
            return results
        counts = loss_counts(self, images)
        return {name: sum_and_count(loss, counts[name]) for name, loss in results.items()}

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters without weight decay, as backbone and layers declare them."""
        return declared_without_decay(self)


class SummedFasterRCNN(_Summed, FasterRCNN):  # type: ignore[misc, unused-ignore]
    """torchvision's Faster R-CNN, or a cascade in its place, with losses as sums where they are wanted."""


class SummedMaskRCNN(_Summed, MaskRCNN):  # type: ignore[misc, unused-ignore]
    """torchvision's Mask R-CNN with losses as sums where they are wanted."""


class SummedRetinaNet(_Summed, RetinaNet):  # type: ignore[misc, unused-ignore]
    """torchvision's RetinaNet with losses as sums where they are wanted."""


def loss_counts(network: Any, images: list[Tensor]) -> dict[str, Tensor]:
    """Return the number of samples over which each loss of the last batch is a mean, by the name of the loss.

    These are the chosen anchors, the chosen boxes, those with an object for masks, the cells with a class for the
    semantic branch of HTC, and the images for RetinaNet.

    Args:
        network: Detector.
        images: Images of the batch.
    """
    if isinstance(network, RetinaNet):
        of_images = torch.tensor(len(images), device=images[0].device)
        return {"classification": of_images, "bbox_regression": of_images}
    anchors: ImageSampler = network.rpn.fg_bg_sampler
    counts = {"loss_objectness": anchors.chosen, "loss_rpn_box_reg": anchors.chosen}
    if isinstance(network.roi_heads, CascadeHeads):
        return counts | network.roi_heads.counts
    boxes: ImageSampler = network.roi_heads.fg_bg_sampler
    return counts | {"loss_classifier": boxes.chosen, "loss_box_reg": boxes.chosen, "loss_mask": boxes.positives}


def sum_and_count(mean: Tensor, count: Tensor) -> Tensor:
    """Return the sum and the count of a mean, in float32 at least; the mean of nothing, which is none, has the sum 0.

    Args:
        mean: Mean over the samples.
        count: Number of the samples.
    """
    mean = mean.to(torch.promote_types(mean.dtype, torch.float32))
    count = count.to(mean)
    total = torch.where(count > 0, mean, mean.nan_to_num()) * count
    return torch.stack([total, count])
