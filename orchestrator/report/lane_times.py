"""Occupation of the lanes by trials over time, from the journal, without the time between sessions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.records.events import (
    SESSION_STARTS,
    Event,
    TrialEnded,
    TrialPaused,
    TrialReported,
    TrialResumed,
    TrialStarted,
)


@dataclass(frozen=True)
class LaneInterval:
    """Interval in which a trial held a lane.

    Args:
        trial: Number of the trial.
        lane: Index of the lane.
        start_s: Start in seconds since the sweep began, without the time between its sessions.
        end_s: End on the same clock.
    """

    trial: int
    lane: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class LaneTimes:
    """Occupation of the lanes of a sweep.

    Args:
        intervals: Intervals in order of their starts.
        lanes: Number of lanes.
        lanes_known: Whether the journal names the lanes; those of older sweeps are inferred.
        total_s: Seconds the drivers of the sweep ran.
        session_starts: Starts of the sessions on that clock in seconds, without the first.
    """

    intervals: Sequence[LaneInterval]
    lanes: int
    lanes_known: bool
    total_s: float
    session_starts: Sequence[float]

    @property
    def busy_share(self) -> float:
        """Share of the time of all lanes in which they held a trial."""
        busy = sum(interval.end_s - interval.start_s for interval in self.intervals)
        return min(1.0, busy / (self.total_s * self.lanes)) if self.total_s and self.lanes else 0.0


@dataclass
class _Attempt:
    """Attempt of a trial in one session."""

    trial: int
    start: float
    lane: int | None = None
    reports: int = 0


@dataclass
class _Reader:
    clock_s: float = 0.0
    last: float | None = None
    sessions: list[float] = field(default_factory=list)
    open: dict[int, _Attempt] = field(default_factory=dict)
    closed: list[tuple[int, int | None, float, float]] = field(default_factory=list)

    def apply(self, event: Event) -> None:
        if isinstance(event, SESSION_STARTS):
            self._close_all()
            self.last = event.time
            self.sessions.append(self.clock_s)
            return
        self.clock_s += max(0.0, event.time - (self.last if self.last is not None else event.time))
        self.last = event.time
        if isinstance(event, (TrialStarted, TrialResumed)):
            self.open[event.trial] = _Attempt(event.trial, self.clock_s)
        elif isinstance(event, TrialReported) and event.trial in self.open:
            self._report(self.open[event.trial], event)
        elif isinstance(event, (TrialPaused, TrialEnded)):
            self._close(event.trial)

    def _report(self, attempt: _Attempt, event: TrialReported) -> None:
        lane, attempt.reports = event.lane, attempt.reports + 1
        if attempt.reports == 1 and event.held_s is not None:
            attempt.start = max(attempt.start, self.clock_s - event.held_s)
        if attempt.lane is not None and lane != attempt.lane:
            self.closed.append((attempt.trial, attempt.lane, attempt.start, self.clock_s))
            attempt.start = self.clock_s
        attempt.lane = lane

    def _close(self, trial: int) -> None:
        attempt = self.open.pop(trial, None)
        if attempt is not None:
            self.closed.append((trial, attempt.lane, attempt.start, self.clock_s))

    def _close_all(self) -> None:
        for trial in list(self.open):
            self._close(trial)


def lane_times(events: Iterable[Event]) -> LaneTimes:
    """Compute the occupation of the lanes.

    Args:
        events: Events of the journal, in order.
    """
    reader = _Reader()
    for event in events:
        reader.apply(event)
    reader._close_all()
    intervals = sorted(reader.closed, key=lambda row: (row[2], row[0]))
    known = any(lane is not None for _, lane, _, _ in intervals)
    placed = _placed(intervals)
    lanes = max((interval.lane for interval in placed), default=-1) + 1
    return LaneTimes(placed, lanes, known, reader.clock_s, reader.sessions[1:])


def _placed(intervals: Sequence[tuple[int, int | None, float, float]]) -> list[LaneInterval]:
    """Assign each interval of an unknown lane to the free lane that was busy last."""
    free_from: dict[int, float] = {}
    placed = []
    for trial, named, start, end in intervals:
        idle = [index for index, since in free_from.items() if since <= start]
        inferred = max(idle, key=lambda index: free_from[index], default=len(free_from))
        lane = inferred if named is None else named
        free_from[lane] = max(end, free_from.get(lane, 0.0))
        placed.append(LaneInterval(trial, lane, start, end))
    return placed
