"""Settings of a sweep: typed, validated whole, the same from Python, YAML and the command line."""

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
