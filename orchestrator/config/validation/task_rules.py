"""Rules that join the task of a sweep with its loss, its augmentation and its evaluation."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.config.searched_values import Setting
from orchestrator.config.sections.augmentation import AugmentationConfig
from orchestrator.config.sections.dataset import DatasetConfig
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.tasks.facts import LOSS_SETTINGS, SCENE_SETTINGS, TaskFacts
from orchestrator.errors import Problem, did_you_mean

_OF_ALL = frozenset({"drop_last"})  # which images a step has, whatever they show


def task_problems(
    task: TaskFacts, training: TrainingConfig | None, dataset: DatasetConfig | None, search: Mapping[str, Any]
) -> Iterator[Problem]:
    """Yield settings that the task of the sweep does not take.

    Args:
        task: Task of the sweep.
        training: Section `training`, the fixed values; None where it is not valid.
        dataset: Section `dataset`; None where it is not valid.
        search: Searched domains by name.
    """
    needed = task.requires
    if needed is not None and importlib.util.find_spec(needed.module) is None:
        rule = f"its metrics need {needed.package}, which is not installed"
        yield Problem("task", f"got {task.name}; {rule}. Use pip install 'spatialsweep[{needed.extra}]'")
    for name, known in (("tta", task.tta), ("resize", task.resize)):
        given = None if dataset is None else getattr(dataset, name)
        if given is not None and given not in known:
            yield Problem(f"dataset.{name}", f"got '{given}'; {task.name} does not have it. Use {' or '.join(known)}")
    if training is None:
        return
    losses = Setting.of("loss", training, search)
    for loss in losses.values:
        if loss not in task.losses:
            rule = f"{task.name} has no such loss. {did_you_mean(str(loss), task.losses)}"
            yield Problem(losses.where, f"got {loss!r}; {rule}")
    yield from _refused(task, training, search)
    for name in (*AugmentationConfig.model_fields, *LOSS_SETTINGS):
        setting, usual = Setting.of(name, training, search), TrainingConfig.model_fields[name].default
        given = [value for value in setting.values if value != usual]
        if given and not _takes(task, name):
            remedy = "Leave it out"
            if setting.where.startswith("search."):  # a named space is left out as a whole
                remedy += f", or set what a named space varies: training.{name}: {json.dumps(usual)}"
            yield Problem(setting.where, f"got {given[0]!r}; {task.name} does not use it. {remedy}")


def _takes(task: TaskFacts, name: str) -> bool:
    """Check whether a task takes a setting of the augmentation or of the loss."""
    if task.settings is None:
        return name not in SCENE_SETTINGS
    return name in task.settings | _OF_ALL


def _refused(task: TaskFacts, training: TrainingConfig, search: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield settings beyond augmentation and loss that the task does not take."""
    for name in sorted(task.refused):
        setting, usual = Setting.of(name, training, search), TrainingConfig.model_fields[name].default
        given = [value for value in setting.values if value != usual]
        if given:
            yield Problem(setting.where, f"got {given[0]!r}; {task.name} does not have it yet. Leave it out")
