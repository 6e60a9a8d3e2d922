"""Tracking of runs in MLflow."""

from __future__ import annotations

from orchestrator.config.sections.section import Section


class TrackingConfig(Section):
    """MLflow server and experiment of the runs.

    Args:
        uri: MLflow tracking URI; None keeps a database in `runs_dir`.
        experiment: Name of the MLflow experiment of the runs.
    """

    uri: str | None = None
    experiment: str = "spatialsweep"
