"""Lookup, check and construction of networks by name: those of this package, of timm, and of the user's own files."""

from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

from models.common.image_size import IMG_SIZE
from models.common.options import ImageShape, ModelOption, ModelOptionError, OptionProblem
from models.registry.architectures import ARCHITECTURES, COMMON_OPTIONS
from models.registry.outside.network import name_problem, outside_network

__all__ = [
    "check_options",
    "create_model",
    "list_models",
    "model_family",
    "model_options",
    "options_of_record",
    "options_to_record",
    "searchable_options",
    "takes_any_option",
]

SEARCHABLE_COMMON = ("drop_rate", "drop_path_rate")


def list_models() -> list[str]:
    """Return the names of all networks of this package, sorted."""
    return sorted(ARCHITECTURES)


def model_options(name: str) -> Mapping[str, ModelOption]:
    """Return the explicit keywords of a network beyond those that timm gives every network.

    Those of a network of timm, or of a file, are the keywords of its signature.

    Raises:
        ModelOptionError: There is no such network.
    """
    return ARCHITECTURES[name].options if name in ARCHITECTURES else outside_network(name).options


def takes_any_option(name: str) -> bool:
    """Return whether a network takes keywords that its signature does not name (`**kwargs`).

    Raises:
        ModelOptionError: There is no such network.
    """
    return name not in ARCHITECTURES and outside_network(name).is_open


def searchable_options(name: str) -> Mapping[str, ModelOption]:
    """Return the options that a search may vary: a network's own, and both kinds of dropout.

    Raises:
        ModelOptionError: There is no such network.
    """
    if name not in ARCHITECTURES:
        return outside_network(name).options
    return {**ARCHITECTURES[name].options, **{key: COMMON_OPTIONS[key] for key in SEARCHABLE_COMMON}}


def model_family(name: str) -> str:
    """Return the family of a network, as `from_authors` names it; `timm` or `file` for one of another origin.

    Raises:
        ModelOptionError: There is no such network.
    """
    return ARCHITECTURES[name].family if name in ARCHITECTURES else outside_network(name).kind


def check_options(
    name: str,
    options: Mapping[str, object],
    *,
    image_size: int | tuple[int, int] | None = None,
    in_chans: int | None = None,
    num_classes: int | None = None,
) -> list[OptionProblem]:
    """Return all problems with a network and its options, without building it.

    A network of timm, or of a file, is built on shapes alone where size, channels and classes are known.

    Args:
        name: Name of the network.
        options: Keywords of the network, common ones such as `drop_rate` included.
        image_size: Side of the images in pixels, or height and width, where known.
        in_chans: Channels of the images, where known.
        num_classes: Classes, where known.

    Returns:
        One entry per problem, none when `create_model` would accept the same.
    """
    problem = name_problem(name)
    if problem is not None:
        return [problem]
    image = None if image_size is None else _shape(image_size, in_chans)
    if image is not None and min(image.height, image.width) < 1:
        return [OptionProblem("image_size", image_size, "a side is at least 1 px", "Use the size of the images.")]
    if name not in ARCHITECTURES:
        return outside_network(name).problems(options, image, num_classes=num_classes, in_chans=in_chans)
    given = dict(options)
    given |= {} if in_chans is None else {"in_chans": in_chans}
    given |= {} if num_classes is None else {"num_classes": num_classes}
    if image is None:
        return ARCHITECTURES[name].problems(given)
    given = {**_declared_size(name, image_size), **given}
    return ARCHITECTURES[name].problems(given, image)


def create_model(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    image_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> nn.Module:
    """Build a network with random weights.

    Args:
        name: Name of the network: from `list_models()`, of timm, or `FILE.py:FACTORY` of a registered file.
        num_classes: Outputs; 0 for pooled features.
        in_chans: Channels of the images.
        image_size: Side of the images in pixels, or height and width. Networks with the option `img_size` are
            built for it; those that work at any size only check it.
        options: Keywords of the network (`model_options`) and timm's common ones.

    Raises:
        ModelOptionError: The name or an option is unknown, or a value impossible; all problems at once.
    """
    if name not in ARCHITECTURES:
        image = None if image_size is None else _shape(image_size, in_chans)
        return outside_network(name).build(options, image, num_classes=num_classes, in_chans=in_chans)
    problems = check_options(name, options, image_size=image_size, in_chans=in_chans, num_classes=num_classes)
    if problems:
        raise ModelOptionError(problems, model=name)
    given = {**_declared_size(name, image_size), **options}
    network: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=in_chans, **given)
    return network


def options_to_record(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a network for a record, with the defaults that once were others written out.

    Args:
        name: Name of the network; one that this package does not have keeps its options.
        options: Keywords of the network.
    """
    return {**{option.name: option.default for option in _changed(name)}, **options}


def options_of_record(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a network that a record means: what version 0.1.0 left out has the default it had there.

    Args:
        name: Name of the network; one that this package does not have keeps its options.
        options: Keywords of the network as recorded.
    """
    return {**{option.name: option.former_default for option in _changed(name)}, **options}


def _changed(name: str) -> list[ModelOption]:
    known = ARCHITECTURES[name].options.values() if name in ARCHITECTURES else ()
    return [option for option in known if option.former_default is not None]


def _declared_size(name: str, image_size: int | tuple[int, int] | None) -> dict[str, int | tuple[int, int]]:
    """Return the size of the images as the option `img_size`, for the networks that have it."""
    return {IMG_SIZE: image_size} if image_size is not None and IMG_SIZE in ARCHITECTURES[name].options else {}


def _shape(image_size: int | tuple[int, int], in_chans: int | None) -> ImageShape:
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    return ImageShape(height, width, in_chans or 3)
