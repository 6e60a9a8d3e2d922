"""All parts of a detector for a given number of boxes, without choosing them: on shapes alone, and to be counted.

Boxes follow from values, which tensors on `meta` do not have: suppression of overlaps and matching fail there.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.ops import sigmoid_focal_loss

from models.detection.cascade import BOX_SIDE, MASK_SIDE, CascadeHeads

__all__ = ["DetectorParts", "evaluation_parts", "training_shapes"]


class DetectorParts(nn.Module):
    """Backbone, pyramid and heads of a detector, the heads for a fixed number of boxes.

    Shape: x (B, in_chans, H, W) -> outputs of all heads.

    Args:
        network: Detector, whose parts it shares.
        boxes: Boxes of an image that box heads read, at most; no more than it has anchors.
        masked: Boxes of an image that mask heads read.
        heads_on_meta: True to move the heads of boxes and masks to `meta`, after which the detector is of no use.
    """

    def __init__(self, network: Any, *, boxes: int, masked: int, heads_on_meta: bool = False) -> None:
        super().__init__()
        self.boxes, self.masked = boxes, masked
        self.backbone = network.backbone
        self.dense = network.head if isinstance(network, RetinaNet) else network.rpn.head
        self._of_boxes: list[nn.Module] = []  # not submodules, so that they stay on their device
        if not isinstance(network, RetinaNet):
            self._of_boxes = [network.roi_heads.to("meta") if heads_on_meta else network.roi_heads]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the outputs of all heads."""
        levels: list[Tensor] = list(self.backbone(x).values())
        if not self._of_boxes:
            return list(self.dense(levels).values())  # classes, then offsets
        objectness, offsets = self.dense(levels)
        anchors = sum(each[0].numel() for each in objectness)
        heads: Any = self._of_boxes[0]
        boxes, masked = (len(x) * min(count, anchors) for count in (self.boxes, self.masked))
        return [*objectness, *offsets, *_of_heads(heads, levels, boxes=boxes, masked=masked)]


def evaluation_parts(network: Any) -> DetectorParts:
    """Return the parts for the most boxes that a detector reads in evaluation; it is of no use afterwards."""
    if isinstance(network, RetinaNet):
        return DetectorParts(network, boxes=0, masked=0)
    proposals = network.rpn._post_nms_top_n["testing"]
    return DetectorParts(network, boxes=proposals, masked=_box_heads(network).detections_per_img, heads_on_meta=True)


def training_shapes(network: Any, images: Tensor) -> list[Tensor]:
    """Compute all parts of a detector for as many boxes as a training step reads at most.

    Args:
        network: Detector.
        images: Images (B, in_chans, H, W) of one size, which may be on `meta`, as the network then is.

    Returns:
        Outputs of all heads, and the loss of classes of RetinaNet, which is over all anchors. Other losses, matching
        and suppression are left out.
    """
    boxes = masked = 0
    if not isinstance(network, RetinaNet):
        sampler = _box_heads(network).fg_bg_sampler
        boxes, masked = (sampler.batch_size_per_image, int(sampler.batch_size_per_image * sampler.positive_fraction))
    outputs: list[Tensor] = DetectorParts(network, boxes=boxes, masked=masked)(images)
    if isinstance(network, RetinaNet):
        outputs.append(sigmoid_focal_loss(outputs[0], torch.zeros_like(outputs[0]), reduction="sum"))
    return outputs


def _box_heads(network: Any) -> Any:
    """Return the heads of a detector with two stages, or the last ones of a cascade."""
    return network.roi_heads.stages[-1] if isinstance(network.roi_heads, CascadeHeads) else network.roi_heads


def _of_heads(heads: Any, levels: list[Tensor], *, boxes: int, masked: int) -> list[Tensor]:
    """Compute the outputs of the heads for so many boxes of a whole batch."""
    like = next(heads.parameters())
    channels = levels[0].shape[1]
    pooled = torch.zeros(boxes, channels, BOX_SIDE, BOX_SIDE, dtype=like.dtype, device=like.device)
    of_masks = torch.zeros(masked, channels, MASK_SIDE, MASK_SIDE, dtype=like.dtype, device=like.device)
    if isinstance(heads, CascadeHeads):
        stages: Any = heads.stages
        outputs = [output for stage in stages for output in stage.predict(pooled.clone())]  # each pools its own boxes
        outputs += heads.mask_logits(of_masks) if heads.masks else []
        outputs += heads.semantic([level.to(like.device) for level in levels]) if heads.semantic is not None else []
        return outputs
    outputs = list(heads.box_predictor(heads.box_head(pooled)))
    if heads.has_mask():
        outputs.append(heads.mask_predictor(heads.mask_head(of_masks)))
    return outputs
