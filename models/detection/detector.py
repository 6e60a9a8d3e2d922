"""Detectors by name, with torchvision's heads over a backbone of this package or of timm.

Sources: Ren et al. 2015 (arXiv 1506.01497), He et al. 2017 (arXiv 1703.06870) and Lin et al. 2017 (arXiv 1708.02002) as
torchvision builds them; Cai & Vasconcelos 2018 (arXiv 1712.00726); Chen et al. 2019 (arXiv 1901.07518).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from models.backbones import BackboneSettings, backbone_settings
from models.common.options import ModelOptionError, OptionProblem, UnknownOptionError, nearest_name
from models.detection.absolute_losses import AbsoluteHeads, AbsoluteProposals
from models.detection.batching import BatchTransform
from models.detection.cascade import BOX_SIDE, MASK_SIDE, STAGES, CascadeHeads, StagePlan
from models.detection.pooling import make_pool
from models.detection.precision import widen_outputs
from models.detection.pyramid import PyramidBackbone, make_anchors
from models.detection.sampling import ImageSampler, StepDraws
from models.detection.semantics import SemanticBranch
from models.detection.sums import SummedFasterRCNN, SummedMaskRCNN, SummedRetinaNet

__all__ = ["DETECTORS", "DetectorSettings", "create_detector"]

DETECTORS = ("faster_rcnn", "mask_rcnn", "retinanet", "cascade_rcnn", "htc")
CASCADES = ("cascade_rcnn", "htc")
STYLES = ("torchvision", "mmdetection")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """Form of a detector; the defaults are torchvision's, and the papers' for cascades.

    Args:
        fpn_channels: Channels of the feature pyramid.
        head_channels: Channels of the dense layers of a box head; RetinaNet has none.
        mask_channels: Channels of the convolutions of a mask head.
        masks: False for a cascade of boxes alone.
        anchor_scale: Side of the square anchors in cells of their level; 8, for RetinaNet 4, when left out.
        anchor_ratios: Heights of the anchors over their widths.
        min_size: Shorter side of the resized images in pixels; in training one of several at random. None for images
            that keep their size.
        max_size: Longest side in pixels.
        fixed_size: Height and width in pixels of all resized images, which need not keep their ratio.
        image_mean: Mean of each channel, of pixels in [0, 1].
        image_std: Standard deviation of each channel.
        size_divisible: Divisor of the sides of the padded batch.
        mask_padding: False for layers that read the whole map with its padding, as in the authors' code.
        proposals: Boxes of an image that the first stage passes on, in training and in evaluation.
        samples: Boxes of an image that a box head trains on.
        positive_fraction: Largest share of boxes with an object among them.
        score_threshold: Smallest score of a detection.
        nms_threshold: Overlap from which the lower one of two detections of a class is dropped.
        detections: Most detections of an image; 100, for RetinaNet 300, when left out.
        stages: Stages of a cascade.
        semantic_classes: Classes of the semantic branch of HTC; None for no branch.
        semantic_weight: Weight of its loss.
        style: `torchvision`, or `mmdetection` for an L1 loss of the offsets in Faster and Mask R-CNN, and features of
            boxes that are pooled from the centres of the cells with as many samples as a bin has cells.
        loss_sums: True for losses in training as tensors of a sum and the number of samples it is over, in place of
            means: those of several batches or ranks add up.
    """

    fpn_channels: int = 256
    head_channels: int = 1024
    mask_channels: int = 256
    masks: bool = True
    anchor_scale: float | None = None
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    min_size: int | Sequence[int] | None = 800
    max_size: int = 1333
    fixed_size: tuple[int, int] | None = None
    image_mean: Sequence[float] = IMAGENET_MEAN
    image_std: Sequence[float] = IMAGENET_STD
    size_divisible: int = 32
    mask_padding: bool = True
    proposals: tuple[int, int] = (2000, 1000)
    samples: int = 512
    positive_fraction: float = 0.25
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections: int | None = None
    stages: Sequence[StagePlan] = STAGES
    semantic_classes: int | None = 183
    semantic_weight: float = 0.2
    style: str = "torchvision"
    loss_sums: bool = False

    def __post_init__(self) -> None:
        least_one = ("head_channels", "mask_channels", "max_size", "size_divisible", "samples")
        optional = ("detections", "semantic_classes")
        given = {name: getattr(self, name) for name in (*least_one, *optional)}
        problems = [
            OptionProblem(name, value, f"{name} is at least 1", "Use 1 or more.")
            for name, value in given.items()
            if value is not None and value < 1
        ]
        if len(self.image_mean) != len(self.image_std):
            rule = f"image_mean has {len(self.image_mean)} channels"
            problems.append(OptionProblem("image_std", self.image_std, rule, "Give one number for each channel."))
        if self.style not in STYLES:
            remedy = f"Use {nearest_name(str(self.style), STYLES) or STYLES[0]!r}."
            problems.append(OptionProblem("style", self.style, f"styles are {', '.join(STYLES)}", remedy))
        if not self.stages:
            problems.append(OptionProblem("stages", self.stages, "a cascade has at least one stage", "Leave it out."))
        if problems:
            raise ModelOptionError(problems)


def create_detector(name: str, backbone: str | BackboneSettings, num_classes: int, **settings: Any) -> nn.Module:
    """Build a detector with random weights.

    In training `network(images, targets)` returns its losses by name, whose sum is the loss; in evaluation
    `network(images)` returns `boxes`, `labels`, `scores` and, with masks, `masks` (N, 1, H, W) of each image. Images
    are tensors (C, H, W) of any size, bytes or floats in [0, 1]; targets have torchvision's keys: `boxes` in pixels,
    `labels` from 1, `masks`, `iscrowd`, and `class_map` for the semantic branch of HTC. Anchors and boxes to train on
    are drawn from torch's global generator, or where every target has a number `draw`, in each image from that alone.

    Args:
        name: `faster_rcnn`, `mask_rcnn`, `retinanet`, `cascade_rcnn` or `htc`.
        backbone: Name of a network, for the settings of its authors (`backbone_settings`), or settings.
        num_classes: Classes of the objects, without the background; their labels are 1 to `num_classes`.
        settings: Fields of `DetectorSettings`.

    Raises:
        ModelOptionError: There is no such detector, network or setting, or one has no such value.
    """
    if name not in DETECTORS:
        nearest = nearest_name(name, DETECTORS)
        remedy = f"Did you mean {nearest!r}?" if nearest else f"Use {DETECTORS[1]!r}."
        raise ModelOptionError([OptionProblem("name", name, f"detectors are {', '.join(DETECTORS)}", remedy)])
    if num_classes < 1:
        rule = "num_classes counts the classes of the objects, without the background"
        raise ModelOptionError([OptionProblem("num_classes", num_classes, rule, "Use 1 or more.")], model=name)
    known = [field.name for field in dataclasses.fields(DetectorSettings)]
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise UnknownOptionError([_unknown(name, key, settings[key], known) for key in unknown], model=name)
    chosen = DetectorSettings(**settings)
    of_backbone = backbone_settings(backbone) if isinstance(backbone, str) else backbone
    if len(chosen.image_mean) != of_backbone.in_chans:
        rule = f"the backbone reads images of {of_backbone.in_chans} channels"
        problem = OptionProblem("image_mean", chosen.image_mean, rule, "Give image_mean and image_std of each channel.")
        raise ModelOptionError([problem], model=name)
    one_stage = name == "retinanet"
    maps = PyramidBackbone(of_backbone, fpn_channels=chosen.fpn_channels, one_stage=one_stage)
    draws = StepDraws()
    make = _retinanet if one_stage else _two_stage
    network: Any = make(name, maps, num_classes + 1, chosen, draws)
    network.draws, network.loss_sums = draws, chosen.loss_sums
    widen_outputs(network, *(network.roi_heads.outputs if name in CASCADES else ()))
    network.transform = BatchTransform(
        min_size=chosen.min_size,
        max_size=chosen.max_size,
        fixed_size=chosen.fixed_size,
        image_mean=chosen.image_mean,
        image_std=chosen.image_std,
        size_divisible=chosen.size_divisible,
        record=maps.padding if chosen.mask_padding else None,
    )
    return network  # type: ignore[no-any-return]


def _unknown(model: str, key: str, given: object, known: Sequence[str]) -> OptionProblem:
    nearest = nearest_name(key, known)
    remedy = f"Did you mean {nearest!r}?" if nearest else f"Its settings: {', '.join(known)}."
    return OptionProblem(key, given, f"{model} has no setting of this name", remedy)


def _retinanet(
    name: str, maps: PyramidBackbone, num_logits: int, chosen: DetectorSettings, draws: StepDraws
) -> nn.Module:
    """Build torchvision's RetinaNet, which trains on all anchors."""
    del name, draws
    network: nn.Module = SummedRetinaNet(
        maps,
        num_logits,
        anchor_generator=make_anchors(
            maps.level_reductions,
            scale=4.0 if chosen.anchor_scale is None else chosen.anchor_scale,
            ratios=chosen.anchor_ratios,
            one_stage=True,
        ),
        score_thresh=chosen.score_threshold,
        nms_thresh=chosen.nms_threshold,
        detections_per_img=chosen.detections or 300,
    )
    return network


def _two_stage(
    name: str, maps: PyramidBackbone, num_logits: int, chosen: DetectorSettings, draws: StepDraws
) -> nn.Module:
    """Build torchvision's Faster or Mask R-CNN, or the same with the heads of a cascade."""
    scale = 8.0 if chosen.anchor_scale is None else chosen.anchor_scale
    in_training, in_evaluation = chosen.proposals
    aligned = chosen.style == "mmdetection"
    shared: dict[str, Any] = {
        "rpn_anchor_generator": make_anchors(maps.level_reductions, scale=scale, ratios=chosen.anchor_ratios),
        "rpn_pre_nms_top_n_train": in_training,
        "rpn_post_nms_top_n_train": in_training,
        "rpn_pre_nms_top_n_test": in_evaluation,
        "rpn_post_nms_top_n_test": in_evaluation,
        "box_score_thresh": chosen.score_threshold,
        "box_nms_thresh": chosen.nms_threshold,
        "box_detections_per_img": chosen.detections or 100,
        "box_batch_size_per_image": chosen.samples,
        "box_positive_fraction": chosen.positive_fraction,
    }
    if name in CASCADES:  # its own heads come in their place
        shared |= {"box_head": nn.Identity(), "box_predictor": nn.Identity()}
    else:
        shared["box_roi_pool"] = make_pool(maps, BOX_SIDE, aligned=aligned)
        shared["box_head"] = TwoMLPHead(chosen.fpn_channels * BOX_SIDE**2, chosen.head_channels)
        shared["box_predictor"] = FastRCNNPredictor(chosen.head_channels, num_logits)
    if name == "mask_rcnn":
        shared["mask_roi_pool"] = make_pool(maps, MASK_SIDE, aligned=aligned)
        shared["mask_head"] = MaskRCNNHeads(chosen.fpn_channels, (chosen.mask_channels,) * 4, 1)
        shared["mask_predictor"] = MaskRCNNPredictor(chosen.mask_channels, chosen.mask_channels, num_logits)
    network: Any = (SummedMaskRCNN if name == "mask_rcnn" else SummedFasterRCNN)(maps, None, **shared)
    if aligned and name not in CASCADES:  # torchvision makes these parts itself; the losses of cascades are the same
        network.rpn.__class__, network.roi_heads.__class__ = AbsoluteProposals, AbsoluteHeads
    for module in (network.rpn, network.roi_heads):
        usual = module.fg_bg_sampler
        module.fg_bg_sampler = ImageSampler(usual.batch_size_per_image, usual.positive_fraction, draws)
    if name in CASCADES:
        network.roi_heads = _cascade(name, maps, num_logits, chosen, draws)
    return network  # type: ignore[no-any-return]


def _cascade(
    name: str, maps: PyramidBackbone, num_logits: int, chosen: DetectorSettings, draws: StepDraws
) -> CascadeHeads:
    """Build the heads of Cascade R-CNN or HTC."""
    semantic = None
    if name == "htc" and chosen.semantic_classes is not None:
        semantic = SemanticBranch(chosen.fpn_channels, chosen.semantic_classes, level_reductions=maps.level_reductions)
    return CascadeHeads(
        chosen.stages,
        in_chs=chosen.fpn_channels,
        num_logits=num_logits,
        box_pool=make_pool(maps, BOX_SIDE, aligned=chosen.style == "mmdetection"),
        mask_pool=make_pool(maps, MASK_SIDE, aligned=chosen.style == "mmdetection"),
        head_channels=chosen.head_channels,
        mask_channels=chosen.mask_channels if chosen.masks else None,
        interleaved=name == "htc",
        semantic=semantic,
        semantic_weight=chosen.semantic_weight,
        sampling={
            "batch_size_per_image": chosen.samples,
            "positive_fraction": chosen.positive_fraction,
            "score_thresh": chosen.score_threshold,
            "nms_thresh": chosen.nms_threshold,
            "detections_per_img": chosen.detections or 100,
        },
        draws=draws,
    )
