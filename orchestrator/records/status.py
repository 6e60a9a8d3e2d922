"""Status of a trial or sweep."""

from __future__ import annotations

from enum import StrEnum


class TrialStatus(StrEnum):
    """Status of a trial; a sweep uses the values that apply to it."""

    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    FAILED = "failed"
    PAUSED = "paused"
    INTERRUPTED = "interrupted"

    @property
    def in_words(self) -> str:
        """Status as text for users."""
        return "stopped early" if self is TrialStatus.PRUNED else self.value
