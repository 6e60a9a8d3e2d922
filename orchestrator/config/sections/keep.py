"""Checkpoints that are kept after their trials have ended."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveInt

from orchestrator.config.sections.section import Section


class KeepConfig(Section):
    """Which checkpoints stay on disk once their trials are over; those of the best trials go to MLflow as well.

    Args:
        best: Trials whose best weights are kept.
        last: Trials, the newest to have ended, whose checkpoints are all kept, those to continue from as well.
    """

    best: PositiveInt = 3
    last: NonNegativeInt = 1
