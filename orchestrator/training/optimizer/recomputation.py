"""Gradient checkpointing: the inside of each block is computed again in the backward pass, instead of being kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

import models
from orchestrator.errors import TrialFailedError

__all__ = ["checkpoint_blocks", "recomputes", "unchanged_buffers"]

# Attributes of modules that compute parts of themselves again: timm's switch of blocks, and an option of LESA.
_SWITCHES = ("grad_checkpointing", "recompute_terms")


def checkpoint_blocks(network: nn.Module) -> None:
    """Switch gradient checkpointing on, by timm's method.

    Args:
        network: Network in training.

    Raises:
        TrialFailedError: The network has no blocks to compute again.
    """
    if not models.recompute_blocks(network):
        raise TrialFailedError(
            f"training.gradient_checkpointing: got True; {type(network).__name__} does not support it. Leave it out, "
            "or save memory with training.accumulation_steps"
        )


def recomputes(network: nn.Module) -> bool:
    """Return whether a backward pass of a network computes parts of it again.

    Args:
        network: Network in training.
    """
    return any(getattr(module, switch, False) for module in network.modules() for switch in _SWITCHES)


@contextmanager
def unchanged_buffers(network: nn.Module) -> Iterator[None]:
    """Restore the buffers of a network after a backward pass that computes parts of it again.

    The second computation updates running statistics a second time. Modules in evaluation mode do not update theirs.
    """
    training = (module for module in network.modules() if module.training)
    buffers = [buffer for module in training for buffer in module.buffers(recurse=False)]
    kept = [buffer.detach().clone() for buffer in buffers]
    yield
    with torch.no_grad():
        for buffer, before in zip(buffers, kept, strict=True):
            buffer.copy_(before)
