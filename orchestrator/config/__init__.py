"""Settings of a sweep: typed, validated whole, the same from Python, YAML and the command line.

Names are imported when they are first used: the command line shows its help without the settings.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.config.load import load_sweep
    from orchestrator.config.sections.budget import BudgetConfig
    from orchestrator.config.sections.dataset import DatasetConfig
    from orchestrator.config.sections.keep import KeepConfig
    from orchestrator.config.sections.model import ModelConfig
    from orchestrator.config.sections.objective import ObjectiveConfig
    from orchestrator.config.sections.resources import ResourcesConfig
    from orchestrator.config.sections.study import SamplerConfig, StorageConfig, TrialSchedulerConfig
    from orchestrator.config.sections.tracking import TrackingConfig
    from orchestrator.config.sections.training import TrainingConfig
    from orchestrator.config.sweep import SweepConfig
    from orchestrator.config.trial import TrialConfig, resolve_trial

_HOMES = {
    "BudgetConfig": "orchestrator.config.sections.budget",
    "DatasetConfig": "orchestrator.config.sections.dataset",
    "KeepConfig": "orchestrator.config.sections.keep",
    "ModelConfig": "orchestrator.config.sections.model",
    "ObjectiveConfig": "orchestrator.config.sections.objective",
    "ResourcesConfig": "orchestrator.config.sections.resources",
    "SamplerConfig": "orchestrator.config.sections.study",
    "StorageConfig": "orchestrator.config.sections.study",
    "SweepConfig": "orchestrator.config.sweep",
    "TrackingConfig": "orchestrator.config.sections.tracking",
    "TrainingConfig": "orchestrator.config.sections.training",
    "TrialConfig": "orchestrator.config.trial",
    "TrialSchedulerConfig": "orchestrator.config.sections.study",
    "load_sweep": "orchestrator.config.load",
    "resolve_trial": "orchestrator.config.trial",
}

__all__ = [
    "BudgetConfig",
    "DatasetConfig",
    "KeepConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "ResourcesConfig",
    "SamplerConfig",
    "StorageConfig",
    "SweepConfig",
    "TrackingConfig",
    "TrainingConfig",
    "TrialConfig",
    "TrialSchedulerConfig",
    "load_sweep",
    "resolve_trial",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'orchestrator.config' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
