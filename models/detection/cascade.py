"""Cascade of box stages, each of which refines the boxes of the one before and requires a closer match.

With `interleaved`, the masks of a stage are those of its refined boxes, and features flow from the mask branch of a
stage to that of the next (HTC); without, a stage predicts the masks of the boxes it starts from (Cascade Mask R-CNN).

Sources: Cai & Vasconcelos 2018, "Cascade R-CNN" (arXiv 1712.00726); Chen et al. 2019, "Hybrid Task Cascade for Instance
Segmentation" (arXiv 1901.07518). The parts are torchvision's.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_loss
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image

from models.common.options import ModelOptionError, OptionProblem
from models.detection.masks import MaskBranch, flow, mean_of_class
from models.detection.sampling import ImageSampler, StepDraws
from models.detection.semantics import SemanticBranch

__all__ = ["BOX_SIDE", "MASK_SIDE", "STAGES", "Batch", "BoxStage", "CascadeHeads", "StagePlan", "without_annotated"]

Target = dict[str, Tensor]
Sizes = list[tuple[int, int]]
BOX_SIDE, MASK_SIDE = 7, 14  # cells of the pooled features of a box


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagePlan:
    """Form of one stage of a cascade.

    Args:
        iou: Overlap from which a box belongs to an object.
        loss_weight: Weight of the losses of the stage.
        stds: Standard deviations by which the offsets of centre and size are divided.
    """

    iou: float
    loss_weight: float
    stds: tuple[float, float, float, float]


STAGES = (
    StagePlan(iou=0.5, loss_weight=1.0, stds=(0.1, 0.1, 0.2, 0.2)),
    StagePlan(iou=0.6, loss_weight=0.5, stds=(0.05, 0.05, 0.1, 0.1)),
    StagePlan(iou=0.7, loss_weight=0.25, stds=(0.033, 0.033, 0.067, 0.067)),
)
"""Stages of both papers."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """Levels of the pyramid, sizes of the images in pixels, and embedding of the semantic branch where there is one."""

    features: dict[str, Tensor]
    sizes: Sizes
    embedding: Tensor | None = None


class BoxStage(RoIHeads):  # type: ignore[misc, unused-ignore]
    """One stage: pooled features to class logits and to box offsets that all classes share.

    Args:
        plan: Overlap, weight and deviations.
        in_chs: Channels of the pyramid.
        head_channels: Channels of the two dense layers.
        num_logits: Classes, background included.
        sampling: Keywords of `RoIHeads` for samples and detections.
        draws: Seeds of the step.
        pool: Pooling of the features of boxes.
    """

    fg_bg_sampler: ImageSampler

    def __init__(
        self,
        plan: StagePlan,
        *,
        in_chs: int,
        head_channels: int,
        num_logits: int,
        sampling: dict[str, Any],
        draws: StepDraws,
        pool: MultiScaleRoIAlign,
    ) -> None:
        super().__init__(
            box_roi_pool=pool,
            box_head=TwoMLPHead(in_chs * BOX_SIDE**2, head_channels),
            box_predictor=None,
            fg_iou_thresh=plan.iou,
            bg_iou_thresh=plan.iou,
            bbox_reg_weights=tuple(1 / std for std in plan.stds),
            **sampling,
        )
        self.plan = plan
        usual = self.fg_bg_sampler
        self.fg_bg_sampler = ImageSampler(usual.batch_size_per_image, usual.positive_fraction, draws)
        self.cls_score = nn.Linear(head_channels, num_logits)
        self.bbox_pred = nn.Linear(head_channels, 4)

    def predict(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Compute class logits (N, num_logits) and offsets (N, 4) of pooled features (N, in_chs, 7, 7)."""
        hidden = self.box_head(pooled)
        return self.cls_score(hidden), self.bbox_pred(hidden)

    def refine(self, boxes: Sequence[Tensor], offsets: Tensor, sizes: Sizes) -> list[Tensor]:
        """Move boxes by their offsets, within their images; nothing flows back through the result."""
        moved = self.box_coder.decode(offsets.detach(), list(boxes)).reshape(-1, 4)  # also where there is no box
        parts = moved.split([len(of_image) for of_image in boxes])
        return [clip_boxes_to_image(part, size) for part, size in zip(parts, sizes, strict=True)]

    def box_losses(self, logits: Tensor, offsets: Tensor, labels: list[Tensor], wanted: list[Tensor]) -> list[Tensor]:
        """Compute the weighted losses of classes and of boxes; those of boxes are per sample, over positive ones."""
        classes, goals = torch.cat(labels), torch.cat(wanted)
        positive = classes > 0
        of_boxes = functional.smooth_l1_loss(offsets[positive], goals[positive], beta=1.0, reduction="sum")
        losses = [functional.cross_entropy(logits, classes), of_boxes / max(1, classes.numel())]
        return [self.plan.loss_weight * loss for loss in losses]


class CascadeHeads(nn.Module):
    """Heads of a cascade, in the place of torchvision's `RoIHeads`.

    Args:
        plans: Stages.
        in_chs: Channels of the pyramid.
        num_logits: Classes, background included.
        box_pool: Pooling of the features of boxes for the box stages.
        mask_pool: The same for the mask branches.
        head_channels: Channels of the dense layers of the box stages.
        mask_channels: Channels of the mask branches; None for boxes alone.
        interleaved: True for masks of refined boxes, with a flow between the branches.
        semantic: Semantic branch, whose features join those of boxes and masks; None for none.
        semantic_weight: Weight of its loss.
        sampling: Keywords of `RoIHeads` for samples and detections.
        draws: Seeds of the step.

    Attributes:
        counts: Number of samples of each loss of the last batch, by its name.
    """

    def __init__(
        self,
        plans: Sequence[StagePlan],
        *,
        in_chs: int,
        num_logits: int,
        box_pool: MultiScaleRoIAlign,
        mask_pool: MultiScaleRoIAlign,
        head_channels: int,
        mask_channels: int | None,
        interleaved: bool,
        semantic: SemanticBranch | None,
        semantic_weight: float,
        sampling: dict[str, Any],
        draws: StepDraws,
    ) -> None:
        super().__init__()
        self.counts: dict[str, Tensor] = {}
        self.interleaved = interleaved
        self.semantic, self.semantic_weight = semantic, semantic_weight
        self.box_pool, self.mask_pool = box_pool, mask_pool
        self.stages = nn.ModuleList()
        self.masks = nn.ModuleList()
        for index, plan in enumerate(plans):
            stage = BoxStage(
                plan,
                in_chs=in_chs,
                head_channels=head_channels,
                num_logits=num_logits,
                sampling=sampling,
                draws=draws,
                pool=self.box_pool,
            )
            self.stages.append(stage)
            if mask_channels is not None:
                receives = interleaved and index > 0
                self.masks.append(MaskBranch(in_chs, mask_channels, num_logits, receives=receives))

    @property
    def outputs(self) -> list[nn.Module]:
        """Layers that compute class logits and offsets."""
        stages = [cast(BoxStage, stage) for stage in self.stages]
        of_boxes: list[nn.Module] = [layer for stage in stages for layer in (stage.cls_score, stage.bbox_pred)]
        return of_boxes if self.semantic is None else [*of_boxes, self.semantic.classify]

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Sizes, targets: list[Target] | None
    ) -> tuple[list[Target], dict[str, Tensor]]:
        """Compute the losses in training, the detections otherwise."""
        embedding, losses = None, {}
        if self.semantic is not None:
            embedding, logits = self.semantic(list(features.values()))
            if self.training:
                assert targets is not None
                loss, self.counts["loss_semantic"] = self.semantic.loss(logits, targets)
                losses["loss_semantic"] = self.semantic_weight * loss
        batch = Batch(features, image_shapes, embedding)
        if not self.training:
            return self._detect(batch, proposals), losses
        assert targets is not None
        if self.masks and any("masks" not in target for target in targets):
            rule = "a detector with masks trains on masks in every target"
            remedy = "Add masks to the data, or set masks=False."
            raise ModelOptionError([OptionProblem("masks", None, rule, remedy)])
        for index, module in enumerate(self.stages):
            stage = cast(BoxStage, module)
            boxes, matched, labels, wanted = stage.select_training_samples(list(proposals), targets)
            of_classes, of_boxes = f"loss_classifier_{index}", f"loss_box_reg_{index}"
            self.counts |= dict.fromkeys((of_classes, of_boxes), stage.fg_bg_sampler.chosen)
            logits, offsets = stage.predict(self.pooled_boxes(batch, boxes))
            losses[of_classes], losses[of_boxes] = stage.box_losses(logits, offsets, labels, wanted)
            refined = stage.refine(boxes, offsets, image_shapes)
            proposals = without_annotated(refined, wanted, labels)
            if self.masks:
                if self.interleaved:
                    boxes, matched, labels, _ = stage.select_training_samples(list(proposals), targets)
                of_masks = f"loss_mask_{index}"
                self.counts[of_masks] = stage.fg_bg_sampler.positives
                loss = self._mask_loss(index, batch, (boxes, matched, labels), targets)
                losses[of_masks] = stage.plan.loss_weight * loss
        return [], losses

    def pooled_boxes(self, batch: Batch, boxes: list[Tensor]) -> Tensor:
        """Pool the features of boxes for a box stage: (boxes, in_chs, 7, 7)."""
        pooled: Tensor = self.box_pool(batch.features, boxes, batch.sizes)
        if self.semantic is not None and batch.embedding is not None:
            pooled = pooled + functional.adaptive_avg_pool2d(self.semantic.pool(batch.embedding, boxes), BOX_SIDE)
        return pooled

    def pooled_masks(self, batch: Batch, boxes: list[Tensor]) -> Tensor:
        """Pool the features of boxes for a mask branch: (boxes, in_chs, 14, 14)."""
        pooled: Tensor = self.mask_pool(batch.features, boxes, batch.sizes)
        if self.semantic is not None and batch.embedding is not None:
            pooled = pooled + self.semantic.pool(batch.embedding, boxes)
        return pooled

    def mask_logits(self, pooled: Tensor) -> list[Tensor]:
        """Compute the logits of all mask branches for pooled features: with a flow between them, or each on its own."""
        branches = [cast(MaskBranch, branch) for branch in self.masks]
        chains = [branches] if self.interleaved else [[branch] for branch in branches]
        features = [hidden for chain in chains for hidden in flow(chain, pooled)]
        return [branch.predictor(hidden) for branch, hidden in zip(branches, features, strict=True)]

    def _mask_loss(
        self,
        index: int,
        batch: Batch,
        samples: tuple[list[Tensor], list[Tensor], list[Tensor]],
        targets: list[Target],
    ) -> Tensor:
        """Compute the loss of the masks of the positive samples in one stage, before its weight."""
        boxes, matched, labels = samples
        positive = [label > 0 for label in labels]
        boxes = [box[keep] for box, keep in zip(boxes, positive, strict=True)]
        matched = [match[keep] for match, keep in zip(matched, positive, strict=True)]
        branches = [cast(MaskBranch, branch) for branch in self.masks][0 if self.interleaved else index : index + 1]
        logits = branches[-1].predictor(flow(branches, self.pooled_masks(batch, boxes))[-1])
        masks, classes = [target["masks"] for target in targets], [target["labels"] for target in targets]
        loss: Tensor = maskrcnn_loss(logits, boxes, masks, classes, matched)
        return loss

    def _detect(self, batch: Batch, proposals: list[Tensor]) -> list[Target]:
        """Refine the proposals stage by stage; the classes have the mean of the logits of all stages."""
        total: Tensor | None = None
        start, offsets = proposals, None
        for module in self.stages:
            stage = cast(BoxStage, module)
            start = proposals
            logits, offsets = stage.predict(self.pooled_boxes(batch, start))
            total = logits if total is None else total + logits
            proposals = stage.refine(start, offsets, batch.sizes)
        assert total is not None and offsets is not None
        last = cast(BoxStage, self.stages[-1])
        for_each_class = offsets.repeat(1, total.shape[1])
        found = last.postprocess_detections(total / len(self.stages), for_each_class, start, batch.sizes)
        detections = [
            {"boxes": boxes, "labels": labels, "scores": scores} for boxes, scores, labels in zip(*found, strict=True)
        ]
        if self.masks:
            boxes = [detection["boxes"] for detection in detections]
            of_masks = self.mask_logits(self.pooled_masks(batch, boxes))
            masks = mean_of_class(of_masks, torch.cat([detection["labels"] for detection in detections]))
            for detection, part in zip(detections, masks.split([len(box) for box in boxes]), strict=True):
                detection["masks"] = part
        return detections


def without_annotated(boxes: Sequence[Tensor], offsets: Sequence[Tensor], labels: Sequence[Tensor]) -> list[Tensor]:
    """Leave out the boxes of annotated samples, which every stage adds again.

    Args:
        boxes: Refined boxes of each image.
        offsets: Offsets that the samples were to have; those of an annotated box are exactly zero.
        labels: Classes of the samples.
    """
    annotated = [(goal == 0).all(1) & (label > 0) for goal, label in zip(offsets, labels, strict=True)]
    return [box[~known] for box, known in zip(boxes, annotated, strict=True)]
