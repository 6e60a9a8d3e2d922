"""Networks of a backbone and a head by flat options, those of both together, as a sweep searches them."""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import timm
import torch
from torch import nn

from models.backbones.settings import NORM_MODES, BackboneSettings, backbone_settings
from models.common.options import ModelOption, ModelOptionError, OptionProblem, nearest_name
from models.registry.catalogue import check_options, list_models, model_options

__all__ = [
    "BACKBONE_NORM",
    "FROZEN_STAGES",
    "build_on_meta",
    "building_problems",
    "deciding_key",
    "head_option_problems",
    "of_head",
    "only_side",
    "options_key",
    "trained_backbone",
]

Network = TypeVar("Network", bound=nn.Module)
Options = Mapping[str, Any]

FROZEN_STAGES = ModelOption(
    name="frozen_stages", type=int, default=0, low=0, high=4, description="first stages that are not trained"
)
"""Option of every head for stages of its backbone."""

BACKBONE_NORM = ModelOption(
    name="backbone_norm",
    type=str,
    default="train",
    choices=NORM_MODES,
    description="batch norms of the backbone: statistics of the batch, the running ones, or these and fixed scales",
)
"""Option of every head for the norms of its backbone."""


def of_head(options: Options, head_options: Mapping[str, ModelOption]) -> dict[str, Any]:
    """Return the given options that belong to the head, by name."""
    return {key: options[key] for key in head_options if key in options}


def head_option_problems(
    name: str,
    options: Options,
    head_options: Mapping[str, ModelOption],
    *,
    image_size: int | None,
    in_chans: int | None,
    num_classes: int | None,
) -> list[OptionProblem]:
    """Return the problems with the name and with each option, without building anything.

    Args:
        name: Name of the backbone.
        options: Options of the backbone and of the head.
        head_options: Options that the head has, by name.
        image_size: Side of the images in pixels, where known.
        in_chans: Channels of the images, where known.
        num_classes: Number of classes, where known.
    """
    given = of_head(options, head_options)
    problems = [fault for key, value in given.items() if (fault := head_options[key].problem(value)) is not None]
    own = {key: value for key, value in options.items() if key not in head_options}
    if name in list_models():  # with what its authors set for maps, as it is built
        own = dict(backbone_settings(name, img_size=image_size, options=own).options)
    faults = check_options(name, own, image_size=image_size, in_chans=in_chans, num_classes=num_classes)
    return [*problems, *(_with_head_name(name, fault, head_options) for fault in faults)]


def trained_backbone(
    name: str, options: Options, head_options: Mapping[str, ModelOption], *, in_chans: int, image_size: int
) -> BackboneSettings:
    """Return the authors' form of a backbone, but for what fits pre-trained weights alone: frozen stages and norms.

    Those are options of every head.

    Args:
        name: Name of the backbone.
        options: Options of the backbone and of the head.
        head_options: Options that the head has, by name.
        in_chans: Channels of the images.
        image_size: Side of the images in pixels.
    """
    return backbone_settings(
        name,
        img_size=image_size,
        in_chans=in_chans,
        frozen_stages=options.get(FROZEN_STAGES.name, FROZEN_STAGES.default),
        norm=options.get(BACKBONE_NORM.name, BACKBONE_NORM.default),
        options={key: value for key, value in options.items() if key not in head_options},
    )


def only_side(name: str, image_size: int) -> int | None:
    """Return the side of the squares that a network built for images of this side reads alone; None for any size."""
    described = timm.get_pretrained_cfg(name)
    return image_size if described is not None and described.fixed_input_size else None


def build_on_meta(build: Callable[[], Network]) -> Network:
    """Build a network on shapes alone, or on the CPU where it reads values as it is built.

    Raises:
        ModelOptionError, RuntimeError: It cannot be built on the CPU either.
    """
    try:
        with torch.device("meta"):
            return build()
    except (ModelOptionError, RuntimeError):  # a network of timm may read values, which `meta` does not have
        return build()


def building_problems(build: Callable[[], nn.Module]) -> tuple[OptionProblem, ...]:
    """Return the problems that show when a network is built."""
    try:
        build_on_meta(build)
    except ModelOptionError as error:
        return error.problems
    return ()


def deciding_key(name: str, options: Options, head_options: Mapping[str, ModelOption]) -> str:
    """Return a key of the options that decide on whether a network with valid ones can be built.

    The rules for options of networks of this package are complete; only whether they have such maps is left.

    Args:
        name: Name of the backbone.
        options: Options of the backbone and of the head.
        head_options: Options that the head has, by name.
    """
    return options_key(of_head(options, head_options) if name in list_models() else options)


def options_key(options: Options) -> str:
    """Return options as a text from which `json.loads` makes them again."""
    return json.dumps(dict(options), sort_keys=True)


def _with_head_name(name: str, fault: OptionProblem, head_options: Mapping[str, ModelOption]) -> OptionProblem:
    """Return the problem of an unknown option with the nearest option of the head, where there is one."""
    nearest = None if fault.option == "name" else nearest_name(fault.option, head_options)
    if nearest is None or fault.option in model_options(name):
        return fault
    return OptionProblem(fault.option, fault.given, fault.rule, f"Did you mean {nearest!r}?")
