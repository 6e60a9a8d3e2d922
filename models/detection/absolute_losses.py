"""First stage and heads of torchvision whose offsets have an L1 loss, as in mmdetection, in place of a smooth one.

Source: configurations and code of mmdetection 2 (Chen et al. 2019, arXiv 1906.07155).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork

__all__ = ["AbsoluteHeads", "AbsoluteProposals"]


class AbsoluteProposals(RegionProposalNetwork):  # type: ignore[misc, unused-ignore]
    """torchvision's first stage with an L1 loss of the offsets."""

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Compute the losses of objects, over the chosen anchors, and of offsets: per chosen anchor, over positives."""
        positive, negative = (torch.cat(masks).bool() for masks in self.fg_bg_sampler(labels))
        chosen = torch.where(positive | negative)[0]
        wanted = torch.cat(regression_targets)
        of_offsets = functional.l1_loss(pred_bbox_deltas[positive], wanted[positive], reduction="sum")
        of_objects = functional.binary_cross_entropy_with_logits(
            objectness.flatten()[chosen], torch.cat(labels)[chosen]
        )
        return of_objects, of_offsets / chosen.numel()


class AbsoluteHeads(RoIHeads):  # type: ignore[misc, unused-ignore]
    """torchvision's heads of boxes and masks with an L1 loss of the offsets."""

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Compute the losses in training, the detections otherwise."""
        if not self.training:
            detections: Any = super().forward(features, proposals, image_shapes, targets)
            return detections  # type: ignore[no-any-return]
        boxes, matched, labels, wanted = self.select_training_samples(list(proposals), targets)
        logits, offsets = self.box_predictor(self.box_head(self.box_roi_pool(features, boxes, image_shapes)))
        classes = torch.cat(labels)
        positive = torch.where(classes > 0)[0]
        of_class = offsets.unflatten(1, (-1, 4))[positive, classes[positive]]
        of_offsets = functional.l1_loss(of_class, torch.cat(wanted)[positive], reduction="sum")
        losses = {
            "loss_classifier": functional.cross_entropy(logits, classes),
            "loss_box_reg": of_offsets / classes.numel(),
        }
        if self.has_mask():
            assert targets is not None
            chosen = [box[label > 0] for box, label in zip(boxes, labels, strict=True)]
            objects = [match[label > 0] for match, label in zip(matched, labels, strict=True)]
            pooled = self.mask_roi_pool(features, chosen, image_shapes)
            masks, of_masks = [target["masks"] for target in targets], self.mask_predictor(self.mask_head(pooled))
            names = [target["labels"] for target in targets]
            losses["loss_mask"] = maskrcnn_loss(of_masks, chosen, masks, names, objects)
        return [], losses
