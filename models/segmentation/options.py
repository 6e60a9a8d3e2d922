"""Networks of semantic segmentation by flat options: those of the backbone, and those of the head.

A sweep searches both together, as it searches the options of a classifier.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

import timm
import torch

from models.backbones import BackboneSettings, backbone_settings
from models.common.options import ModelOption, ModelOptionError, OptionProblem, nearest_name
from models.registry.arithmetic import ModelCost
from models.registry.catalogue import check_options, list_models, model_options
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
        ModelOption(
            name="frozen_stages", type=int, default=0, low=0, high=4, description="first stages that are not trained"
        ),
    )
}
"""Options of a segmentation network beyond those of its backbone, by name."""

_KEYWORDS = {"fpn_channels": "fpn_channels", "head_channels": "head_channels", "head_dropout": "dropout"}
_OF_BACKBONE = "frozen_stages"
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
    given = {key: options[key] for key in HEAD_OPTIONS if key in options}
    keywords = {_KEYWORDS[key]: value for key, value in given.items() if key in _KEYWORDS}
    head, auxiliary = given.get("head", HEAD_OPTIONS["head"].default), given.get("auxiliary")
    backbone = _backbone(name, options, in_chans, image_size)
    network = create_segmentor(str(head), backbone, num_classes, auxiliary=auxiliary, **keywords)
    described = timm.get_pretrained_cfg(name)
    network.only_px = image_size if described is not None and described.fixed_input_size else None
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
    given = dict(options)
    if name in list_models():  # the rules of their options are complete; only whether they have maps is left
        given = {key: value for key, value in options.items() if key in HEAD_OPTIONS}
    shape = {"num_classes": num_classes, "in_chans": in_chans, "image_size": image_size}
    return list(_building_problems(name, _key(given), **shape))


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
    return _counted(name, _key(options), num_classes=num_classes, in_chans=in_chans, image_size=image_size)


@functools.lru_cache(_REMEMBERED)
def _counted(name: str, key: str, **shape: int) -> ModelCost:
    options = json.loads(key)
    try:
        with torch.device("meta"):
            network = build_segmentor(name, options, **shape)
        device = "cpu" if depends_on_values(network) else "meta"
    except ModelOptionError:  # a network of timm may read values, which `meta` does not have
        network, device = build_segmentor(name, options, **shape), "cpu"
    if device == "cpu":
        network = build_segmentor(name, options, **shape)
    network.auxiliary = None
    params = sum(parameter.numel() for parameter in network.parameters())
    side = shape["image_size"]
    return ModelCost(params, count_macs(network.eval(), (shape["in_chans"], side, side), device=device))


@functools.lru_cache(_REMEMBERED)
def _building_problems(name: str, key: str, **shape: int) -> tuple[OptionProblem, ...]:
    options = json.loads(key)
    try:
        with torch.device("meta"):
            build_segmentor(name, options, **shape)
    except ModelOptionError:
        try:
            build_segmentor(name, options, **shape)
        except ModelOptionError as error:
            return error.problems
    return ()


def _named_problems(
    name: str, options: Mapping[str, Any], *, image_size: int | None, in_chans: int | None, num_classes: int | None
) -> list[OptionProblem]:
    """Return the problems with the name and with each option, without building anything."""
    given = {key: options[key] for key in HEAD_OPTIONS if key in options}
    problems = [fault for key, value in given.items() if (fault := HEAD_OPTIONS[key].problem(value)) is not None]
    if given.get("head") == "upernet" and "fpn_channels" in given:
        rule, remedy = (
            "upernet has no such pyramid",
            "Leave it out, or give it the condition when: {head: semantic_fpn}.",
        )
        problems.append(OptionProblem("fpn_channels", given["fpn_channels"], rule, remedy))
    own = {key: value for key, value in options.items() if key not in HEAD_OPTIONS}
    if name in list_models():  # with what its authors set for maps, as it is built
        own = dict(backbone_settings(name, img_size=image_size, options=own).options)
    faults = check_options(name, own, image_size=image_size, in_chans=in_chans, num_classes=num_classes)
    return [*problems, *(_with_head_name(name, fault) for fault in faults)]


def _with_head_name(name: str, fault: OptionProblem) -> OptionProblem:
    """Return the problem of an unknown option with the nearest option of the head, where there is one."""
    nearest = None if fault.option == "name" else nearest_name(fault.option, HEAD_OPTIONS)
    if nearest is None or fault.option in model_options(name):
        return fault
    return OptionProblem(fault.option, fault.given, fault.rule, f"Did you mean {nearest!r}?")


def _backbone(name: str, options: Mapping[str, Any], in_chans: int, image_size: int) -> BackboneSettings:
    """Return the authors' form of a backbone, but for what fits pre-trained weights alone: frozen stages and norms."""
    own = {key: value for key, value in options.items() if key not in HEAD_OPTIONS}
    return backbone_settings(
        name,
        img_size=image_size,
        in_chans=in_chans,
        frozen_stages=options.get(_OF_BACKBONE, HEAD_OPTIONS[_OF_BACKBONE].default),
        norm="train",
        options=own,
    )


def _key(options: Mapping[str, Any]) -> str:
    return json.dumps(dict(options), sort_keys=True)
