"""Messages about the progress of a trial from its first rank to the hub, and requests to leave its epoch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.lanes.hub.running_epochs import PROGRESS_INTERVAL_S
from orchestrator.lanes.messages import ProgressAnswer, RankId
from orchestrator.records.folder.live_progress import EpochProgress

logger = logging.getLogger(__name__)

SHORT_S = 5.0
"""Seconds between two reports up to which nothing is shown in between: the reports show enough."""


class TrialProgress:
    """Observer of one trial in a worker; see `EpochObserver`.

    Training never waits for the hub: there is at most one message on its way, and its answer is read at a later check.

    Args:
        hub: Handle of the hub.
        rank_id: This rank.
        trial_id: Tune's id of the trial.
        is_preempted: Returns whether a node of the group is about to be taken away.
        clock: Clock in seconds.
    """

    def __init__(
        self,
        hub: Any,
        rank_id: RankId,
        trial_id: str,
        *,
        is_preempted: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self._rank_id = rank_id
        self._trial_id = trial_id
        self._is_preempted = is_preempted
        self._clock = clock
        self._answer: Any = None  # reference to the answer that is not read yet
        self._sent_s = self._reported_s = clock()
        self._every_s = PROGRESS_INTERVAL_S
        self._leave_at_s: float | None = None

    def note_report(self) -> None:
        """Note that an epoch was reported, which shows as much as a message would."""
        self._reported_s = self._clock()

    def wants_leave(self, left_s: float) -> bool:
        """Return whether a node is about to be taken away, or the sweep ends before the epoch does."""
        self._read_answer()
        ends_first = self._leave_at_s is not None and self._clock() + left_s > self._leave_at_s
        return ends_first or self._is_preempted()

    def show(self, progress: EpochProgress) -> None:
        """Send the newest progress, unless the last message is on its way or not long past; does not block."""
        now = self._clock()
        since_report_s = now - self._reported_s
        if since_report_s + progress.left_s < SHORT_S or since_report_s < SHORT_S - PROGRESS_INTERVAL_S:
            return
        if self._answer is None and now - self._sent_s >= self._every_s:
            self._answer, self._sent_s = self._hub.progress.remote(self._rank_id, self._trial_id, progress), now

    def _read_answer(self) -> None:
        if self._answer is None or not ray.wait([self._answer], timeout=0)[0]:
            return
        try:
            answer: ProgressAnswer = ray.get(self._answer)
        except RayError as error:  # without a hub the sweep is over, which the next report finds
            logger.debug("The hub did not take the progress: %s", error)
        else:
            self._every_s = answer.every_s
            self._leave_at_s = None if answer.leave_in_s is None else self._sent_s + answer.leave_in_s
        self._answer = None
