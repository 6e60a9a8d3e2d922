"""Checkpoints that are kept after their trials have ended."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveInt

from orchestrator.config.sections.section import Section


class KeepConfig(Section):
    """Number of trials whose checkpoints are kept on disk; those of the best trials are copied to MLflow as well.

    Args:
        best: Number of best trials whose best weights are kept.
        last: Number of trials that ended last whose checkpoints are all kept, including those to resume from.
        paused: Number of paused trials whose checkpoints are all kept, the best ones; another one that is resumed
            starts again from its first epoch. At least `best` are kept.
    """

    best: PositiveInt = 3
    last: NonNegativeInt = 1
    paused: NonNegativeInt = 100
