"""Gradient checkpointing: the inside of each block is computed again in the backward pass, instead of being kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

import models
from orchestrator.errors import TrialFailedError

__all__ = ["checkpoint_blocks", "unchanged_buffers"]


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


@contextmanager
def unchanged_buffers(network: nn.Module) -> Iterator[None]:
    """Restore the buffers of a network after a backward pass with gradient checkpointing.

    The second computation of a block updates its running statistics a second time.
    """
    buffers = list(network.buffers())
    kept = [buffer.detach().clone() for buffer in buffers]
    yield
    with torch.no_grad():
        for buffer, before in zip(buffers, kept, strict=True):
            buffer.copy_(before)
