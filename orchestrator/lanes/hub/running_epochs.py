"""Progress of running epochs in the hub, and when they are to be left."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.lanes.hub.lane import Lane
from orchestrator.lanes.messages import ProgressAnswer
from orchestrator.records.folder.live_progress import EpochProgress

PROGRESS_INTERVAL_S = 2.0
_SHARE_S = 0.01  # between two messages about progress, over all lanes: a thousand lanes send a hundred a second


@dataclass
class RunningEpochs:
    """Time at which running epochs are left.

    Args:
        leave_at_s: That time, by the monotonic clock; None finishes all epochs.
    """

    leave_at_s: float | None = None

    def leave_in(self, seconds: float | None) -> None:
        """Have running epochs left after some seconds; None finishes them."""
        self.leave_at_s = None if seconds is None else time.monotonic() + seconds

    def answer(self, lanes: int, *, closing: bool) -> ProgressAnswer:
        """Return the answer to a message about progress.

        Args:
            lanes: Number of lanes that send such messages.
            closing: Whether the sweep ends at once.
        """
        leave_in_s = None if self.leave_at_s is None else max(0.0, self.leave_at_s - time.monotonic())
        return ProgressAnswer(0.0 if closing else leave_in_s, max(PROGRESS_INTERVAL_S, _SHARE_S * lanes))


def progress_by_trial(lanes: Collection[Lane]) -> dict[int, EpochProgress]:
    """Return the newest progress of every trial that trains."""
    return {lane.progress.trial: lane.progress for lane in lanes if lane.alive and lane.progress is not None}
