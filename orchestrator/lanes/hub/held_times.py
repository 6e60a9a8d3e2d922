"""Time in which trials hold a lane, by the clock of the hub's event loop."""

from __future__ import annotations

import asyncio


class HeldTimes:
    """Seconds in which each trial has held a lane that can train; the waits in between are not counted."""

    def __init__(self) -> None:
        self._past_s: dict[str, float] = {}
        self._since_s: dict[str, float] = {}

    def update(self, trial_id: str, *, holds: bool) -> None:
        """Start the clock of a trial, or stop it; has no effect where it is in that state."""
        if not holds:
            self._past_s[trial_id] = self.seconds(trial_id)
            self._since_s.pop(trial_id, None)
        elif trial_id not in self._since_s:
            self._since_s[trial_id] = _now_s()

    def recover(self, trial_id: str, held_s: float) -> None:
        """Count on from what the client of a trial has received, which is more than a restarted hub has counted.

        Args:
            trial_id: Id of the trial.
            held_s: Seconds that the client has received with its newest report.
        """
        missing_s = held_s - self.seconds(trial_id)
        if missing_s > 0:
            self._past_s[trial_id] = self._past_s.get(trial_id, 0.0) + missing_s

    def seconds(self, trial_id: str) -> float:
        """Return the seconds in which a trial has held a lane until now."""
        since_s = self._since_s.get(trial_id)
        return self._past_s.get(trial_id, 0.0) + (0.0 if since_s is None else _now_s() - since_s)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
