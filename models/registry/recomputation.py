"""Networks whose blocks can be computed again in the backward pass, by timm's method `set_grad_checkpointing`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from models.common.options import ModelOptionError
from models.registry.catalogue import create_model

__all__ = ["recompute_blocks", "supports_recomputation"]


def recompute_blocks(network: nn.Module) -> bool:
    """Switch the second computation of blocks on where a network supports it; return whether it does.

    Args:
        network: Network in training.
    """
    switch = getattr(network, "set_grad_checkpointing", None)
    if switch is None:
        return False
    try:
        switch(True)
    except (AssertionError, NotImplementedError):  # how networks of timm refuse
        return False
    return True


def supports_recomputation(name: str, options: Mapping[str, Any], **shape: Any) -> bool:
    """Return whether a network supports the second computation of blocks; True where it cannot be built with these.

    Args:
        name: Name of the network.
        options: Its options.
        shape: `num_classes`, `in_chans` and `image_size`, as for `create_model`.
    """
    for device in ("meta", "cpu"):
        try:
            with torch.device(device):
                return recompute_blocks(create_model(name, **shape, **options))
        except ModelOptionError:  # a network of timm, or of a file, may read values, which `meta` does not have
            continue
    return True
