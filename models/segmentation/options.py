"""Networks of semantic segmentation by flat options: those of the backbone, and those of the head.

A sweep searches both together, as it searches the options of a classifier.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

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
from models.registry.arithmetic import ModelCost
from models.registry.counting import count_macs, depends_on_values
from models.segmentation.segmentor import SEGMENTORS, Segmentor, create_segmentor

__all__ = ["HEAD_OPTIONS", "build_segmentor", "segmentor_cost", "segmentor_problems"]

HEAD_OPTIONS: Mapping[str, ModelOption] = {
    option.name: option
    for option in (
        ModelOption(
            name="head", type=str, default="semantic_fpn", choices=tuple(SEGMENTORS), description="head of the network"
        ),
        ModelOption(
            name="fpn_channels", type=int, default=256, low=1, description="channels of the pyramid of semantic_fpn"
        ),
        ModelOption(name="head_channels", type=int, default=128, low=1, description="channels of the head"),
        ModelOption(
            name="head_dropout",
            type=float,
            default=0.1,
            low=0,
            high=0.95,
            description="dropout of whole channels ahead of the classifier",
        ),
        ModelOption(
            name="auxiliary",
            type=bool,
            default=False,
            description="second head in training; upernet has one by default",
        ),
        FROZEN_STAGES,
        BACKBONE_NORM,
    )
}
"""Options of a segmentation network beyond those of its backbone, by name."""

_KEYWORDS = {"fpn_channels": "fpn_channels", "head_channels": "head_channels", "head_dropout": "dropout"}
_REMEMBERED = 1024  # networks


def build_segmentor(
    name: str, options: Mapping[str, Any], *, num_classes: int, in_chans: int, image_size: int
) -> Segmentor:
    """Build a network of semantic segmentation with random weights, every stage trained unless an option freezes it.

    Args:
        name: Name of the backbone.
        options: Options of the backbone, and of `HEAD_OPTIONS`.
        num_classes: Classes of the pixels.
        in_chans: Channels of the images.
        image_size: Side of the images in pixels.

    Raises:
        ModelOptionError: The name or an option is unknown, or a value impossible; all problems at once.
    """
    shape = {"num_classes": num_classes, "in_chans": in_chans, "image_size": image_size}
    if problems := _named_problems(name, options, **shape):
        raise ModelOptionError(problems, model=name)
    given = of_head(options, HEAD_OPTIONS)
    keywords = {_KEYWORDS[key]: value for key, value in given.items() if key in _KEYWORDS}
    head, auxiliary = given.get("head", HEAD_OPTIONS["head"].default), given.get("auxiliary")
    backbone = trained_backbone(name, options, HEAD_OPTIONS, in_chans=in_chans, image_size=image_size)
    network = create_segmentor(str(head), backbone, num_classes, auxiliary=auxiliary, **keywords)
    network.only_px = only_side(name, image_size)
    return network


def segmentor_problems(
    name: str,
    options: Mapping[str, Any],
    *,
    image_size: int | None = None,
    in_chans: int | None = None,
    num_classes: int | None = None,
) -> list[OptionProblem]:
    """Return all problems with a network and its options; it is built on shapes alone where its images are known.

    Args:
        name: Name of the backbone.
        options: Options of the backbone, and of `HEAD_OPTIONS`.
        image_size: Side of the images in pixels, where known.
        in_chans: Channels of the images, where known.
        num_classes: Classes of the pixels, where known.
    """
    problems = _named_problems(name, options, image_size=image_size, in_chans=in_chans, num_classes=num_classes)
    if problems or image_size is None or in_chans is None or num_classes is None:
        return problems
    shape = {"num_classes": num_classes, "in_chans": in_chans, "image_size": image_size}
    return list(_building_problems(name, deciding_key(name, options, HEAD_OPTIONS), **shape))


def segmentor_cost(
    name: str, options: Mapping[str, Any], *, num_classes: int, in_chans: int, image_size: int
) -> ModelCost:
    """Count a network as `models.model_cost` does, without the second head, which is used in training alone.

    Args:
        name: Name of the backbone.
        options: Options of the backbone, and of `HEAD_OPTIONS`.
        num_classes: Classes of the pixels.
        in_chans: Channels of the images.
        image_size: Side of the images in pixels.

    Raises:
        ModelOptionError: The name or an option is unknown, or a value impossible.
    """
    return _counted(name, options_key(options), num_classes=num_classes, in_chans=in_chans, image_size=image_size)


@functools.lru_cache(_REMEMBERED)
def _counted(name: str, key: str, **shape: int) -> ModelCost:
    build = functools.partial(build_segmentor, name, json.loads(key), **shape)
    network = build_on_meta(build)
    device = next(network.parameters()).device.type
    if depends_on_values(network):
        network = build()  # layers that count themselves keep their values
    network.auxiliary = None
    params = sum(parameter.numel() for parameter in network.parameters())
    side = shape["image_size"]
    return ModelCost(params, count_macs(network.eval(), (shape["in_chans"], side, side), device=device))


@functools.lru_cache(_REMEMBERED)
def _building_problems(name: str, key: str, **shape: int) -> tuple[OptionProblem, ...]:
    return building_problems(functools.partial(build_segmentor, name, json.loads(key), **shape))


def _named_problems(
    name: str, options: Mapping[str, Any], *, image_size: int | None, in_chans: int | None, num_classes: int | None
) -> list[OptionProblem]:
    """Return the problems with the name and with each option, without building anything."""
    problems = []
    if options.get("head") == "upernet" and "fpn_channels" in options:
        rule, remedy = (
            "upernet has no such pyramid",
            "Leave it out, or give it the condition when: {head: semantic_fpn}.",
        )
        problems.append(OptionProblem("fpn_channels", options["fpn_channels"], rule, remedy))
    shape = {"image_size": image_size, "in_chans": in_chans, "num_classes": num_classes}
    return [*problems, *head_option_problems(name, options, HEAD_OPTIONS, **shape)]
