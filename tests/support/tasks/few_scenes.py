"""Trials of annotated images on a few scenes of digits, resized to 32 px."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.config import DatasetConfig, ModelConfig, ObjectiveConfig, TrainingConfig, TrialConfig
from orchestrator.data.datasets import open_any_dataset
from orchestrator.data.scenes import prepare_scenes
from orchestrator.data.sources.scenes import digits_scenes
from orchestrator.training.checkpoints.checkpoints import TrialCheckpoints
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.tasks.registry import find_task
from orchestrator.training.trial import Trial
from orchestrator.training.workers import Workers

DATASET = DatasetConfig(name="digits-scenes", image_size=32, validation_fraction=0.25)
SMALL = {"fpn_channels": 8, "head_channels": 8}


def write_scenes(folder: Path) -> Path:
    """Compose 28 training scenes and 9 test scenes in a folder of datasets; return that of the scenes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits_scenes, "_SCENES", {"train": 28, "test": 9})
        return prepare_scenes("digits-scenes", folder)


def few_scenes(folder: Path, task: str) -> DeviceImages:
    """Place the scenes of `write_scenes` for a task: 21 to train on, 7 for validation, 9 to test."""
    return find_task(task).place_dataset(open_any_dataset(folder), torch.device("cpu"), DATASET)


def scene_trial(
    data: DeviceImages,
    folder: Path,
    *,
    task: str,
    metric: str,
    options: dict[str, Any] | None = None,
    workers: Workers | None = None,
    **training: Any,
) -> Trial:
    """Create a trial of the plain network with small heads; three steps an epoch."""
    settings = {"epochs": 2, "global_batch_size": 7, "optimizer": "adamw", "lr": 3e-3, "warmup_epochs": 0, **training}
    config = TrialConfig(
        number=0,
        model=ModelConfig(name="conv_resnet26_small", options={**SMALL, **(options or {})}),
        training=TrainingConfig(**settings),
        seed=0,
        task=task,
    )
    objective = ObjectiveConfig(metric=metric, mode="max")
    return Trial(config, objective, data, workers or Workers(), TrialCheckpoints(folder))
