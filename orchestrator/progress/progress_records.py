"""Progress within epochs for other readers: a file for `spatialsweep status`, and rare events for MLflow."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from orchestrator.records.folder.live_progress import EpochProgress, write_live
from orchestrator.records.ledger import Ledger
from orchestrator.records.trials import TrialRecord

logger = logging.getLogger(__name__)

FILE_INTERVAL_S = 5.0
EVENT_INTERVAL_S = 30.0
_EVENT_SHARE_S = 1.0  # between two events, over all trials: a thousand trials have one each in a quarter of an hour


def current(trial: TrialRecord, progress: Mapping[int, EpochProgress]) -> EpochProgress | None:
    """Return the progress of the epoch that a trial trains; None where that epoch has been reported since.

    Args:
        trial: Trial that runs.
        progress: Newest progress by trial.
    """
    found = progress.get(trial.number)
    return found if found is not None and found.epoch > trial.epochs else None


class ProgressRecords:
    """Writer of the progress of a sweep; polled by the driver's main thread.

    Args:
        ledger: Ledger of the sweep.
        scratch: Folder of the sweep's temporary files.
        progress: Returns the newest progress by trial.
        clock: Clock in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        scratch: Path,
        progress: Callable[[], Mapping[int, EpochProgress]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._scratch = scratch
        self._progress = progress
        self._clock = clock
        self._written_s = -math.inf
        self._events_s: dict[int, float] = {}  # of the newest event, by trial

    def poll(self) -> None:
        """Write the file every few seconds, and the events that are due."""
        now = self._clock()
        if now - self._written_s < FILE_INTERVAL_S:
            return
        self._written_s = now
        newest = self._progress()
        rows = [row for trial in self._ledger.running() if (row := current(trial, newest)) is not None]
        try:
            write_live(self._scratch, rows)
        except OSError as error:  # it is for display only, and the journal reports a storage that is full
            logger.debug("The progress was not written: %s", error)
        self._record(rows, now)

    def _record(self, rows: list[EpochProgress], now: float) -> None:
        interval_s = max(EVENT_INTERVAL_S, _EVENT_SHARE_S * len(rows))
        self._events_s = {row.trial: self._events_s.get(row.trial, now) for row in rows}
        for row in rows:
            if row.epoch_s < EVENT_INTERVAL_S or now - self._events_s[row.trial] < interval_s:
                continue
            self._events_s[row.trial] = now
            step = (row.epoch - 1) * row.steps + row.step
            metrics = {"images_per_s": row.images_per_s, "train_loss": row.loss}
            self._ledger.trial_progressed(row.trial, row.epoch, step, metrics)
