"""Training loss of every step of an epoch, summed over the ranks without waiting for the device at each step."""

from __future__ import annotations

import torch
from torch import Tensor

from orchestrator.training.workers import Workers

__all__ = ["EpochLosses", "first_diverged_step"]


class EpochLosses:
    """Loss sums of one epoch, a number per step.

    Each rank records its own. They are summed over the ranks at intervals, to detect a loss that is not
    finite at the same step on all ranks; in a checkpoint; and at the end of the epoch.

    Args:
        steps: Number of steps of the epoch.
        workers: This rank and its process group.
    """

    def __init__(self, steps: int, workers: Workers) -> None:
        self._workers = workers
        self._own = torch.zeros(steps, dtype=torch.float64, device=workers.device)

    def record(self, step: int, loss_sum: Tensor) -> None:
        """Record the loss of a step, summed over this rank's images."""
        self._own[step] = loss_sum

    def own_sum(self, first: int, last: int) -> float:
        """Return the loss of some steps, summed over this rank's images; waits for the device.

        Args:
            first: Number of the first step, from 0.
            last: Number of the step after the last one.
        """
        return float(self._own[first:last].sum())

    def sum_over_ranks(self) -> Tensor:
        """Return the losses summed over all images of all ranks, (steps,), zero for later steps.

        A collective operation: every rank must call.
        """
        return self._workers.sum(self._own.clone())

    def restore(self, sums: Tensor) -> None:
        """Restore what `sum_over_ranks` returned; the first rank takes the sums of all."""
        self._own.copy_(sums if self._workers.is_first else torch.zeros_like(sums))


def first_diverged_step(sums: Tensor) -> int | None:
    """Return the first step, from 0, whose loss is not finite; None where all are."""
    bad = (~torch.isfinite(sums)).nonzero()
    return int(bad[0]) if len(bad) else None
