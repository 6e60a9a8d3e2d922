"""The complete configuration of one trial."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from pydantic import Field, NonNegativeInt

from orchestrator.config.fixed_settings import CHECKPOINT
from orchestrator.config.initial_weights import NAME_PATTERN, InitialWeights
from orchestrator.config.sections.model import ModelConfig
from orchestrator.config.sections.section import Section, Seed
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.tasks.registry import DEFAULT_TASK
from search_spaces import setting_of

SEED = "seed"
"""Searched name that sets the seed of a trial instead of a setting of its training."""
ROW = "row"
"""Searched name that sets nothing: a label of configurations, on which conditions of other names depend."""


class TrialConfig(Section):
    """Complete configuration of one trial, as its workers receive it.

    Args:
        number: Number of the trial in Optuna, from 0.
        model: Network and all its options.
        training: All training settings.
        seed: Seed of the initial weights and of the order of the images.
        initial_weights: Name of the stored file that `model.checkpoint` stands for, with the hash of its bytes; None
            where the training starts from random weights.
        task: Name of the task.
    """

    number: NonNegativeInt
    model: ModelConfig
    training: TrainingConfig
    seed: Seed
    initial_weights: str | None = Field(None, pattern=rf"^{NAME_PATTERN}$")
    task: str = DEFAULT_TASK


class SharedSettings(Protocol):
    """Settings that all trials of a sweep share: part of `SweepConfig` and of `SearchPlan`."""

    @property
    def model(self) -> ModelConfig | None:
        """Fixed network and options."""

    @property
    def training(self) -> TrainingConfig:
        """Fixed training settings."""

    @property
    def seed(self) -> int:
        """Seed of the initial weights and of the order of the images."""

    @property
    def task(self) -> str:
        """Name of the task."""


def resolve_trial(
    shared: SharedSettings,
    number: int,
    params: Mapping[str, Any],
    initial_weights: Mapping[tuple[str, str], InitialWeights] = MappingProxyType({}),
) -> TrialConfig:
    """Combine the searched values of a trial with the fixed ones.

    Defaults of the network that once were others are written out, so that the record of the trial stays valid.

    Args:
        shared: Settings that all trials of the sweep share.
        number: Number of the trial in Optuna.
        params: Values drawn from the search space, by searched name.
        initial_weights: Weights that trainings may start from, by checkpoint and network.
    """
    import models

    fixed = shared.model or ModelConfig(name="", options={})
    settings = {setting_of(name): value for name, value in params.items()}
    name = str(settings.pop("model", fixed.name))
    seed = settings.pop(SEED, shared.seed)
    settings.pop(ROW, None)
    checkpoint = settings.pop(CHECKPOINT, fixed.checkpoint)
    weights = initial_weights.get((str(checkpoint), name))
    training = {key: value for key, value in settings.items() if key in TrainingConfig.model_fields}
    options = {key: value for key, value in settings.items() if key not in training}
    return TrialConfig(
        number=number,
        model=ModelConfig(
            name=name,
            options=models.options_to_record(name, {**fixed.options, **options}),
            checkpoint=checkpoint,
            checkpoint_weights=None if checkpoint is None else fixed.checkpoint_weights,
        ),
        training=TrainingConfig(**{**shared.training.model_dump(), **training}),
        seed=seed,
        initial_weights=None if weights is None else weights.name,
        task=shared.task,
    )
