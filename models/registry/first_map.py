"""Size of the maps of a network, which windows, grids and spans have to fit."""

from collections.abc import Mapping
from typing import Any, cast

import torch

from models.common.staged import StagedNetwork
from models.registry.catalogue import create_model
from models.registry.operations import MetaOperations
from models.registry.shapes import on_shapes

__all__ = ["first_map_side"]


def first_map_side(name: str, options: Mapping[str, Any], *, image_size: int, in_chans: int) -> int:
    """Return the side in cells of the map that the first stage reads, the largest of a network.

    Args:
        name: Registered name of the network.
        options: Keywords of the network.
        image_size: Side of the images in pixels.
        in_chans: Channels of the images.

    Raises:
        ModelOptionError: The name or an option is unknown, or a value impossible.
    """
    with on_shapes():
        network = create_model(name, num_classes=0, in_chans=in_chans, image_size=image_size, **options)
        images = torch.empty(1, in_chans, image_size, image_size)
    with MetaOperations(), torch.no_grad():
        return int(cast(StagedNetwork, network).forward_stem(images).shape[-1])
