"""Settings of a sweep: typed, validated whole, the same from Python, YAML and the command line."""

from orchestrator.config.budget import BudgetConfig
from orchestrator.config.load import load_sweep
from orchestrator.config.objective import ObjectiveConfig
from orchestrator.config.schema import (
    DatasetConfig,
    KeepConfig,
    ModelConfig,
    ResourcesConfig,
    SweepConfig,
    TrackingConfig,
    TrialConfig,
    resolve_trial,
)
from orchestrator.config.study_settings import SamplerConfig, StorageConfig, TrialSchedulerConfig
from orchestrator.config.training import TrainingConfig

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
