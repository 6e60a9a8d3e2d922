"""Detectors by flat options: those of the backbone, and those of the heads.

A sweep searches both together, as it searches the options of a classifier.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from models.backbones.head_options import (
    BACKBONE_NORM,
    FROZEN_STAGES,
    build_on_meta,
    building_problems,
    deciding_key,
    head_option_problems,
    of_head,
    only_side,
    options_key,
    trained_backbone,
)
from models.common.options import ModelOption, ModelOptionError, OptionProblem
from models.detection.detector import STYLES, create_detector
from models.detection.shapes import evaluation_parts
from models.registry.arithmetic import ModelCost
from models.registry.counting import count_macs, depends_on_values

__all__ = ["ANCHOR_RATIOS", "build_detector", "detection_options", "detector_cost", "detector_problems"]

ANCHOR_RATIOS: Mapping[str, tuple[float, ...]] = {
    "square": (1.0,),
    "three": (0.5, 1.0, 2.0),
    "five": (1 / 3, 0.5, 1.0, 2.0, 3.0),
}
"""Heights of the anchors over their widths, by the name of the option's value."""

_OF_BOXES = ("faster_rcnn", "retinanet", "cascade_rcnn")
_OF_MASKS = ("mask_rcnn", "cascade_rcnn", "htc")
_TWO_STAGE_ONLY = ("head_channels", "proposals", "samples", "style")
_SHARED = (
    ModelOption(name="fpn_channels", type=int, default=256, low=1, description="channels of the feature pyramid"),
    ModelOption(
        name="head_channels",
        type=int,
        default=1024,
        low=1,
        description="channels of the dense layers of box heads; retinanet has none",
    ),
    ModelOption(
        name="anchor_scale",
        type=float,
        default=8.0,
        above=0,
        description="side of the square anchors in cells of their level; retinanet has 4 by default",
    ),
    ModelOption(
        name="anchor_ratios",
        type=str,
        default="three",
        choices=tuple(ANCHOR_RATIOS),
        description="heights of the anchors over their widths: 1; 1/2 to 2; 1/3 to 3",
    ),
    ModelOption(
        name="proposals",
        type=int,
        default=1000,
        low=1,
        description="boxes of an image that the first stage passes on, twice as many in training; not retinanet",
    ),
    ModelOption(
        name="samples",
        type=int,
        default=512,
        low=1,
        description="boxes of an image that a box head trains on; not retinanet",
    ),
    ModelOption(
        name="style",
        type=str,
        default=STYLES[0],
        choices=STYLES,
        description="losses of offsets and pooling of boxes of torchvision or of mmdetection; not retinanet",
    ),
    FROZEN_STAGES,
    BACKBONE_NORM,
)
_MASKS_ONLY = (
    ModelOption(name="mask_channels", type=int, default=256, low=1, description="channels of the mask heads"),
    ModelOption(
        name="semantic_classes",
        type=int,
        default=0,
        low=0,
        high=255,
        description="classes of the semantic branch of htc, which trains on class maps; 0 for no branch",
    ),
)
_PADDING_PX = 32  # divisor of the sides of a padded batch
_REMEMBERED = 1024  # networks


@functools.cache
def detection_options(masks: bool) -> Mapping[str, ModelOption]:
    """Return the options of a detector beyond those of its backbone, by name.

    Args:
        masks: True for detectors of boxes and masks, False for boxes alone.
    """
    choices = _OF_MASKS if masks else _OF_BOXES
    head = ModelOption(name="head", type=str, default=choices[0], choices=choices, description="kind of the detector")
    options = (head, *_SHARED, *(_MASKS_ONLY if masks else ()))
    return {option.name: option for option in options}


def build_detector(
    name: str, options: Mapping[str, Any], *, masks: bool, num_classes: int, in_chans: int, image_size: int
) -> nn.Module:
    """Build a detector with random weights for normalised images, every stage trained unless an option freezes it.

    `network(images, targets)` returns in training each loss by its name as a tensor of its sum and its count, and
    `network(images)` in evaluation the detections of each image, at its size. Images (C, H, W) keep their size and
    are padded, as `create_detector` describes.

    Args:
        name: Name of the backbone.
        options: Options of the backbone, and of `detection_options`.
        masks: True for boxes and masks, False for boxes alone.
        num_classes: Classes of the objects, without the background.
        in_chans: Channels of the images.
        image_size: Side of the images in pixels. A network built for one size alone, whose `only_px` is that side,
            reads images of at most this height and width.

    Raises:
        ModelOptionError: The name or an option is unknown, or a value impossible; all problems at once.
    """
    shape = {"num_classes": num_classes, "in_chans": in_chans, "image_size": image_size}
    if problems := _named_problems(name, options, masks=masks, **shape):
        raise ModelOptionError(problems, model=name)
    known = detection_options(masks)
    given = {**of_head(options, known)}
    head = given.pop("head", known["head"].default)
    for option in (FROZEN_STAGES, BACKBONE_NORM):
        given.pop(option.name, None)
    given["semantic_classes"] = given.get("semantic_classes") or None
    if "anchor_ratios" in given:
        given["anchor_ratios"] = ANCHOR_RATIOS[given["anchor_ratios"]]
    if "proposals" in given:
        given["proposals"] = (2 * given["proposals"], given["proposals"])
    only_px = only_side(name, image_size)
    network: Any = create_detector(
        str(head),
        trained_backbone(name, options, known, in_chans=in_chans, image_size=image_size),
        num_classes,
        masks=masks,
        min_size=None,
        image_mean=(0.0,) * in_chans,
        image_std=(1.0,) * in_chans,
        size_divisible=_PADDING_PX if only_px is None else only_px,
        loss_sums=True,
        **given,
    )
    network.only_px = only_px
    return network  # type: ignore[no-any-return]


def detector_problems(
    name: str,
    options: Mapping[str, Any],
    *,
    masks: bool,
    image_size: int | None = None,
    in_chans: int | None = None,
    num_classes: int | None = None,
) -> list[OptionProblem]:
    """Return all problems with a detector and its options; it is built on shapes alone where its images are known.

    Args:
        name: Name of the backbone.
        options: Options of the backbone, and of `detection_options`.
        masks: True for boxes and masks, False for boxes alone.
        image_size: Side of the images in pixels, where known.
        in_chans: Channels of the images, where known.
        num_classes: Classes of the objects, where known.
    """
    problems = _named_problems(
        name, options, masks=masks, image_size=image_size, in_chans=in_chans, num_classes=num_classes
    )
    if problems or image_size is None or in_chans is None or num_classes is None:
        return problems
    shape = {"num_classes": num_classes, "in_chans": in_chans, "image_size": image_size}
    return list(_building_problems(name, deciding_key(name, options, detection_options(masks)), masks=masks, **shape))


def detector_cost(
    name: str, options: Mapping[str, Any], *, masks: bool, num_classes: int, in_chans: int, image_size: int
) -> ModelCost:
    """Count a detector as `models.model_cost` does, on one square image in evaluation.

    Counted are backbone, pyramid, the head of the first stage or of RetinaNet, the box heads for as many boxes as the
    first stage passes on at most, the mask heads for as many as an image has detections at most, and the semantic
    branch. Pooling and the choice of boxes multiply no matrices.

    Args:
        name: Name of the backbone.
        options: Options of the backbone, and of `detection_options`.
        masks: True for boxes and masks, False for boxes alone.
        num_classes: Classes of the objects, without the background.
        in_chans: Channels of the images.
        image_size: Side of the images in pixels.

    Raises:
        ModelOptionError: The name or an option is unknown, or a value impossible.
    """
    shape = {"num_classes": num_classes, "in_chans": in_chans, "image_size": image_size}
    return _counted(name, options_key(options), masks=masks, **shape)


@functools.lru_cache(_REMEMBERED)
def _counted(name: str, key: str, *, masks: bool, **shape: int) -> ModelCost:
    build: Any = functools.partial(build_detector, name, json.loads(key), masks=masks, **shape)
    network: Any = build_on_meta(build)
    device = next(network.backbone.parameters()).device.type
    if depends_on_values(network):
        network = build()  # layers that count themselves keep their values
    params = sum(parameter.numel() for parameter in network.parameters())
    divisor = network.transform.size_divisible
    side = -(-shape["image_size"] // divisor) * divisor
    parts = evaluation_parts(network.eval())
    return ModelCost(params, count_macs(parts, (shape["in_chans"], side, side), device=device))


@functools.lru_cache(_REMEMBERED)
def _building_problems(name: str, key: str, *, masks: bool, **shape: int) -> tuple[OptionProblem, ...]:
    build: Any = functools.partial(build_detector, name, json.loads(key), masks=masks, **shape)
    return building_problems(build)


def _named_problems(
    name: str,
    options: Mapping[str, Any],
    *,
    masks: bool,
    image_size: int | None,
    in_chans: int | None,
    num_classes: int | None,
) -> list[OptionProblem]:
    """Return the problems with the name and with each option, without building anything."""
    known = detection_options(masks)
    head = options.get("head", known["head"].default)
    remedy = "Leave it out, or give it the condition when: {{head: {}}}."
    problems = []
    if head == "retinanet":
        rule = "retinanet has one stage, without box heads"
        given = of_head(options, {key: known[key] for key in _TWO_STAGE_ONLY})
        problems += [OptionProblem(key, value, rule, remedy.format("faster_rcnn")) for key, value in given.items()]
    if head != "htc" and "semantic_classes" in known and options.get("semantic_classes"):
        rule, given = "htc alone has a semantic branch", options["semantic_classes"]
        problems.append(OptionProblem("semantic_classes", given, rule, remedy.format("htc")))
    shape = {"image_size": image_size, "in_chans": in_chans, "num_classes": num_classes}
    return [*problems, *head_option_problems(name, options, known, **shape)]
