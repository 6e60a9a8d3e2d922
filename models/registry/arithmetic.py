"""Cost of a network before it is trained: parameters and multiply-accumulates.

Multiply-accumulates are those of convolutions and matrix products, counted on shapes alone, without images. Attention
to windows counts by its formula, every query against every pixel of its window, however it is computed; learned windows
count at their first size. So does the similarity of FCViT, one product per channel and position. All other layers count
as they compute; an operation that torch has no formula for, such as a kernel of a user's own, counts as nothing.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import timm
from torch import nn

from models.common.options import ImageShape, ModelOptionError, OptionValue
from models.registry.architectures import ARCHITECTURES, COMMON_OPTIONS
from models.registry.catalogue import check_options, create_model, model_family, model_options
from models.registry.counting import count_macs, depends_on_values
from models.registry.outside.network import outside_network
from models.registry.shapes import on_shapes

__all__ = ["COSTLESS", "ModelCost", "ModelFacts", "model_cost", "model_facts", "model_params"]

COSTLESS = frozenset(
    {
        "drop_rate",
        "drop_path_rate",
        "proj_drop_rate",
        "recompute_terms",
        "layer_scale_init",
        "mask_before_softmax",
        "scaled",
        "scale_init",
        "shift_init",
        "span_penalty",
        "zero_init_last",
    }
)
"""Options that change neither the parameters of a network nor what it multiplies."""
_REMEMBERED = 4096  # networks


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """Registered network with its default options.

    Args:
        name: Registered name.
        family: Family, as in `models.model_family`.
        params: Learned numbers.
        macs: Multiply-accumulates of one image.
        input_size: Channels, height and width of the images it is described for.
        source: Identifier of the paper.
    """

    name: str
    family: str
    params: int
    macs: int
    input_size: tuple[int, int, int]
    source: str


@dataclasses.dataclass(frozen=True)
class ModelCost:
    """Size of a network.

    Args:
        params: Learned numbers.
        macs: Multiply-accumulates of one image.
    """

    params: int
    macs: int


def model_facts(name: str) -> ModelFacts:
    """Look up and count a registered network.

    Raises:
        ModelOptionError: There is no such network.
    """
    family = model_family(name)
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None
    channels, height, width = cfg.input_size
    cost = _cost(functools.partial(timm.create_model, name), (channels, height, width))
    return ModelFacts(
        name=name,
        family=family,
        params=cost.params,
        macs=cost.macs,
        input_size=(channels, height, width),
        source=str(cfg.paper_ids),
    )


def model_cost(name: str, options: Mapping[str, Any], *, num_classes: int, in_chans: int, image_size: int) -> ModelCost:
    """Count a network with its options as `model_facts` does, almost without memory.

    It takes milliseconds the first time; networks that differ only in `COSTLESS` options are counted once.

    Args:
        name: Registered name.
        options: Keywords of the network.
        num_classes: Outputs.
        in_chans: Channels of the images.
        image_size: Side of the images in pixels.

    Raises:
        ModelOptionError: The name or an option is unknown, or a value impossible.
    """
    if name not in ARCHITECTURES:
        return _outside_cost(name, options, num_classes=num_classes, in_chans=in_chans, image_size=image_size)
    shape = {"num_classes": num_classes, "in_chans": in_chans, "image_size": image_size}
    return _counted(name, _deciding(name, options, **shape), **shape)


def model_params(name: str, options: Mapping[str, Any], *, num_classes: int, in_chans: int, image_size: int) -> int:
    """Return the parameters of a network with its options: the cheaper half of `model_cost`."""
    if name not in ARCHITECTURES:
        cost = _outside_cost(name, options, num_classes=num_classes, in_chans=in_chans, image_size=image_size)
        return cost.params
    shape = {"num_classes": num_classes, "in_chans": in_chans, "image_size": image_size}
    return _counted_params(name, _deciding(name, options, **shape), **shape)


def _outside_cost(
    name: str, options: Mapping[str, Any], *, num_classes: int, in_chans: int, image_size: int
) -> ModelCost:
    if problems := check_options(name, options, num_classes=num_classes, in_chans=in_chans, image_size=image_size):
        raise ModelOptionError(problems, model=name)
    image = ImageShape(image_size, image_size, in_chans)
    found = outside_network(name).probe(options, image, num_classes=num_classes, in_chans=in_chans)
    return ModelCost(params=found.params, macs=found.macs)


def _deciding(name: str, options: Mapping[str, Any], **shape: int) -> tuple[tuple[str, OptionValue], ...]:
    """Return the options that decide on the cost of a network, normalised, after all of them were checked."""
    if problems := check_options(name, options, **shape):
        raise ModelOptionError(problems, model=name)
    known = {**COMMON_OPTIONS, **model_options(name)}
    return tuple(sorted((key, known[key].normalise(value)) for key, value in options.items() if key not in COSTLESS))


@functools.lru_cache(_REMEMBERED)
def _counted(name: str, options: tuple[tuple[str, OptionValue], ...], **shape: int) -> ModelCost:
    given: dict[str, Any] = {**dict(options), **shape}
    make = functools.partial(create_model, name, **given)
    return _cost(make, (shape["in_chans"], shape["image_size"], shape["image_size"]))


@functools.lru_cache(_REMEMBERED)
def _counted_params(name: str, options: tuple[tuple[str, OptionValue], ...], **shape: int) -> int:
    given: dict[str, Any] = {**dict(options), **shape}
    with on_shapes():
        network = create_model(name, **given)
    return sum(parameter.numel() for parameter in network.parameters())


def _cost(make: Callable[[], nn.Module], input_size: tuple[int, int, int]) -> ModelCost:
    with on_shapes():
        network = make()
    if depends_on_values(network):
        network = make()
    params = sum(parameter.numel() for parameter in network.parameters())
    return ModelCost(params=params, macs=count_macs(network.eval(), input_size))
