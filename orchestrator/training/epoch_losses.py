"""The training loss of every step of an epoch, summed over the ranks without waiting for the device at each step."""

from __future__ import annotations

import torch
from torch import Tensor

from orchestrator.training.workers import Workers


class EpochLosses:
    """Loss sums of one epoch, a number per step.

    Each rank notes its own; `over_ranks` adds them up where they are needed: now and then to notice a loss that is not
    finite (all ranks at the same step, so that none is left waiting for the others), in a checkpoint, and at the end.

    Args:
        steps: Of the epoch.
        workers: This rank among its peers.
    """

    def __init__(self, steps: int, workers: Workers) -> None:
        self._workers = workers
        self._own = torch.zeros(steps, dtype=torch.float64, device=workers.device)

    def note(self, step: int, loss_sum: Tensor) -> None:
        """Keeps the loss of a step, summed over this rank's images."""
        self._own[step] = loss_sum

    def over_ranks(self) -> Tensor:
        """Per step, summed over all images of all ranks, (steps,); steps to come are zero. Every rank must call."""
        return self._workers.sum(self._own.clone())

    def restore(self, sums: Tensor) -> None:
        """Takes up what `over_ranks` gave; the first rank stands for all."""
        self._own.copy_(sums if self._workers.is_first else torch.zeros_like(sums))


def first_diverged(sums: Tensor) -> int | None:
    """The first step, from 0, whose loss is not finite."""
    bad = (~torch.isfinite(sums)).nonzero()
    return int(bad[0]) if len(bad) else None
