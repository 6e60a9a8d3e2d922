"""Export of trained networks to files that run without this package."""

from orchestrator.inference.export.export import Exported, export_network, require_target
from orchestrator.inference.export.formats import FORMATS

__all__ = ["FORMATS", "Exported", "export_network", "require_target"]
