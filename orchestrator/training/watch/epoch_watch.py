"""Checks of an epoch while it trains: its progress, requests to leave it, and checkpoints of long epochs.

A check waits for the device and, with several ranks, is a collective operation, so there is one every few seconds at
most. All ranks check after the same steps: at each check the first rank plans the next one by its clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from orchestrator.records.folder.live_progress import EpochProgress
from orchestrator.training.epoch_losses import EpochLosses
from orchestrator.training.workers import Workers

CHECK_INTERVAL_S = 2.0
CHECKPOINT_INTERVAL_S = 600.0
_GROWTH = 4  # of the number of steps between two checks, since the first steps of a process are slow


class EpochObserver(Protocol):
    """Receiver of the progress of a trial, and source of requests to leave it; one on every rank."""

    def wants_leave(self, left_s: float) -> bool:
        """Return whether this rank asks to leave the trial now; any rank may.

        Args:
            left_s: Expected seconds until the last step of the epoch.
        """

    def show(self, progress: EpochProgress) -> None:
        """Take the newest progress; called on the first rank, which waits for the return."""


@dataclass(frozen=True)
class Due:
    """Agreement of all ranks after a check.

    Args:
        leave: Save the state of the trial and leave it.
        save: Save the state of the trial.
    """

    leave: bool = False
    save: bool = False


class EpochWatch:
    """Checks of the epochs of one trial, on one rank; without an observer there are none.

    Args:
        trial: Number of the trial.
        workers: This rank and its process group.
        observer: Receiver of the progress; None on all ranks or on none.
        clock: Clock in seconds.
    """

    def __init__(
        self,
        trial: int,
        workers: Workers,
        observer: EpochObserver | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trial = trial
        self._workers = workers
        self._observer = observer
        self._clock = clock
        self._epoch = 0
        self._images: Sequence[int] = ()
        self._marked = 0  # steps of the epoch at the last check
        self._marked_s = self._checked_s = self._saved_s = clock()
        self._planned = self._steps_left = 1

    def begin_epoch(self, epoch: int, first: int, images: Sequence[int]) -> None:
        """Begin to watch an epoch.

        Args:
            epoch: Number of the epoch, from 1.
            first: Number of its steps that are complete.
            images: Number of images of each of its steps, over all ranks.
        """
        self._epoch, self._marked, self._images = epoch, first, images
        self._marked_s = self._clock()

    def is_due(self) -> bool:
        """Return whether a check is due; to be called once after every step, and the same on all ranks."""
        if self._observer is None:
            return False
        if self._workers.world_size == 1:
            return self._clock() - self._checked_s >= CHECK_INTERVAL_S
        self._steps_left -= 1
        return self._steps_left <= 0

    def check(self, step: int, losses: EpochLosses) -> Due:
        """Show the progress and agree on what is due; every rank must call after the same step.

        Args:
            step: Number of complete steps of the epoch.
            losses: Losses of the epoch.
        """
        assert self._observer is not None  # else nothing is due
        own_loss = losses.own_sum(self._marked, step)  # waits for the device
        now = self._clock()
        step_s = (now - self._marked_s) / (step - self._marked)
        left_s = (len(self._images) - step) * step_s
        leave = self._observer.wants_leave(left_s)
        save = now - self._saved_s >= CHECKPOINT_INTERVAL_S
        planned = min(max(1, int(CHECK_INTERVAL_S / step_s)) if step_s > 0 else 1 << 20, _GROWTH * self._planned)
        loss, leaving, saving, planned = self._agree(own_loss, leave=leave, save=save, planned=planned)
        if self._workers.is_first:
            self._show(step, now, loss, left_s)
        self._marked, self._marked_s, self._checked_s = step, now, now
        self._planned = self._steps_left = planned
        if saving:
            self._saved_s = now
        return Due(leaving, saving)

    def note_save(self) -> None:
        """Note that the state of the trial was saved."""
        self._saved_s = self._clock()

    def _agree(self, loss: float, *, leave: bool, save: bool, planned: int) -> tuple[float, bool, bool, int]:
        """Return the loss summed over the ranks, whether any rank leaves, and the plans of the first rank."""
        if self._workers.world_size == 1:
            return loss, leave, save, planned
        plans = [float(save), float(planned)] if self._workers.is_first else [0.0, 0.0]
        own = torch.tensor([loss, float(leave), *plans], dtype=torch.float64, device=self._workers.device)
        loss_sum, leaving, saving, steps = self._workers.sum(own).tolist()
        return loss_sum, leaving > 0, saving > 0, int(steps)

    def _show(self, step: int, now: float, loss: float, left_s: float) -> None:
        assert self._observer is not None
        images, seconds = sum(self._images[self._marked : step]), max(now - self._marked_s, 1e-9)
        self._observer.show(
            EpochProgress(
                trial=self._trial,
                epoch=self._epoch,
                step=step,
                steps=len(self._images),
                images_per_s=images / seconds,
                loss=loss / images if math.isfinite(loss) else math.nan,
                left_s=left_s,
                epoch_s=len(self._images) * seconds / (step - self._marked),
            )
        )
