"""Queries about the present state of a sweep, for all threads of the driver."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.records.costs import Cost, SweepTotals
from orchestrator.records.events import Event
from orchestrator.records.history import read_history
from orchestrator.records.journal import read_entries
from orchestrator.records.status import TrialStatus
from orchestrator.records.trials import RejectedTrial, TrialRecord


class LedgerQueries:
    """State that the events of a journal add up to; its methods may be called from any thread.

    Args:
        path: Path of the journal.

    Raises:
        JournalError: A line of the journal is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._history = read_history(path)

    @property
    def sessions(self) -> int:
        """Number of sessions, one per driver."""
        return self._history.sessions

    @property
    def identity(self) -> Mapping[str, Any] | None:
        """Settings that decided the results in the newest session; None before the first."""
        return self._history.identity

    @property
    def ended_by(self) -> str:
        """Limit of the budget that ended the newest session; empty when none did."""
        return self._history.ended_by

    @property
    def stored(self) -> set[tuple[int, str]]:
        """Checkpoints to be stored as artifacts, by trial and file."""
        return self._history.stored

    @property
    def config(self) -> Mapping[str, Any]:
        """Present settings, without passwords."""
        return self._history.config

    @property
    def searched(self) -> Mapping[str, Any]:
        """Domains of all searched names there ever were, with all choices there ever were, as plain data."""
        return self._history.searched

    @property
    def changed(self) -> Mapping[str, Any]:
        """Settings that the user changed while the sweep ran, with their newest values."""
        return dict(self._history.changed)

    @property
    def enqueued(self) -> Mapping[str, Mapping[str, Any]]:
        """Configurations that the user enqueued while the sweep ran, by the identifier of the request."""
        return dict(self._history.enqueued)

    def trials(self) -> list[TrialRecord]:
        """Return all trials, ordered by number."""
        with self._lock:
            return [self._history.trials[number] for number in sorted(self._history.trials)]

    def trial(self, number: int) -> TrialRecord:
        """Return a trial by its number."""
        with self._lock:
            return self._history.trials[number]

    def rejected(self) -> list[RejectedTrial]:
        """Return all rejected configurations, ordered by number."""
        with self._lock:
            return [self._history.rejected[number] for number in sorted(self._history.rejected)]

    def has_trial(self, number: int) -> bool:
        """Return whether a trial of this number was ever started."""
        with self._lock:
            return number in self._history.trials

    def count_ended(self) -> int:
        """Count the trials that have ended for good; paused ones have not."""
        with self._lock:
            return len(self._history.over)

    def count_configurations(self) -> int:
        """Count the configurations that were ever started, whatever the number of their seeds; none is rejected."""
        with self._lock:
            return len(self._history.trials) - len(self._history.repeats)

    def count_ended_configurations(self) -> int:
        """Count the configurations whose trial with the first seed has ended for good."""
        with self._lock:
            return len(self._history.over) - self._history.repeats_over

    def count_paused(self) -> int:
        """Count the paused trials."""
        with self._lock:
            return len(self._history.paused)

    def paused_since(self, count: int) -> list[TrialRecord]:
        """Return the trial of every pause, without the first `count` pauses, in order; it may run again since."""
        with self._lock:
            return [self._history.trials[number] for number in self._history.pauses[count:]]

    def restorable(self) -> list[TrialRecord]:
        """Return the paused trials that have a checkpoint, ordered by number."""
        with self._lock:
            return [self._history.trials[number] for number in sorted(self._history.restorable)]

    def events(self) -> list[Event]:
        """Return the events of all sessions so far, in order, from the journal's file."""
        with self._lock:
            return [entry.event for entry in read_entries(self._path)]

    def ended_since(self, count: int) -> list[TrialRecord]:
        """Return the trials that have ended for good, without the first `count`, in the order of their ends."""
        with self._lock:
            return [self._history.trials[number] for number in self._history.over[count:]]

    def open(self) -> list[TrialRecord]:
        """Return the running and interrupted trials, ordered by number."""
        with self._lock:
            return [self._history.trials[number] for number in sorted(self._history.open)]

    def held(self) -> list[int]:
        """Return the numbers of the trials that the user has paused."""
        with self._lock:
            return [number for number in sorted(self._history.paused) if self._history.trials[number].steered]

    def running(self) -> list[TrialRecord]:
        """Return the running trials, ordered by number."""
        return [trial for trial in self.open() if trial.status is TrialStatus.RUNNING]

    def cost_now(self, number: int) -> Cost:
        """Return the cost of a trial until now."""
        with self._lock:
            return self._history.costs.cost(number, time.time())

    def totals(self) -> SweepTotals:
        """Return time, devices and best value of the sweep until now."""
        with self._lock:
            return self._history.costs.totals(time.time())
