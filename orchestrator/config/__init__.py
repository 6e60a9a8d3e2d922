"""Settings of a sweep: typed, validated whole, the same from Python, YAML and the command line."""

from orchestrator.config.load import load_sweep
from orchestrator.config.sections.budget import BudgetConfig
from orchestrator.config.sections.objective import ObjectiveConfig
from orchestrator.config.sections.study import SamplerConfig, StorageConfig, TrialSchedulerConfig
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.sweep import (
    DatasetConfig,
    KeepConfig,
    ModelConfig,
    ResourcesConfig,
    SweepConfig,
    TrackingConfig,
    TrialConfig,
    resolve_trial,
)

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
