"""How a trial or a sweep stands."""

from __future__ import annotations

from enum import StrEnum


class TrialStatus(StrEnum):
    """How a trial stands."""

    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def in_words(self) -> str:
        """As a person is told."""
        return "stopped early" if self is TrialStatus.PRUNED else self.value
