"""Place of the MLflow runs."""

from __future__ import annotations

from orchestrator.config.sections.section import Section


class TrackingConfig(Section):
    """Where runs are recorded.

    Args:
        uri: An MLflow tracking URI; None keeps a database beneath `runs_dir`.
        experiment: MLflow experiment the sweep's runs belong to.
    """

    uri: str | None = None
    experiment: str = "spatialsweep"
