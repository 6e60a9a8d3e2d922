"""Trained networks as files that run without this package."""

from orchestrator.exporting.export import Exported, export_network
from orchestrator.exporting.formats import FORMATS

__all__ = ["FORMATS", "Exported", "export_network"]
