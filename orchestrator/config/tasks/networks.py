"""Networks and images of a task, for validation and search: options that it adds, and the dataset that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.config.sections.dataset import DatasetConfig
from orchestrator.config.tasks.registry import list_tasks, task_facts

if TYPE_CHECKING:
    from models import ModelCost, ModelOption, OptionProblem
    from orchestrator.data import DatasetFacts

__all__ = ["facts_of_images", "head_options", "network_cost", "option_problems", "searchable_options"]


def facts_of_images(dataset: DatasetConfig, task: str) -> DatasetFacts:
    """Return the facts about the images of a sweep.

    Args:
        dataset: Section `dataset`.
        task: Name of the task; for an unknown one, images have one label each.

    Raises:
        DataError: The dataset is unknown, missing, incomplete, or without the annotations that the task reads.
    """
    from orchestrator.data import dataset_facts

    annotation = task_facts(task).annotation if task in list_tasks() else ""
    return dataset_facts(dataset.name, dataset.uri, dataset.image_size, annotation)


def head_options(task: str) -> Mapping[str, ModelOption]:
    """Return the options that a task adds to those of a network, by name.

    Args:
        task: Name of the task; an unknown one adds none.
    """
    if task in list_tasks() and task_facts(task).head == "segmentation":
        from models.segmentation import HEAD_OPTIONS

        return HEAD_OPTIONS
    return {}


def searchable_options(task: str, model: str) -> Mapping[str, Any]:
    """Return the options of a network and of its head that a search may vary, by name.

    Args:
        task: Name of the task.
        model: Name of the network.

    Raises:
        ModelOptionError: There is no such network.
    """
    import models

    return {**models.searchable_options(model), **head_options(task)}


def option_problems(task: str, model: str, options: Mapping[str, Any], **shape: int) -> list[OptionProblem]:
    """Return all problems with a network of a task and its options.

    Args:
        task: Name of the task.
        model: Name of the network.
        options: Options of the network and of its head.
        shape: `image_size`, `in_chans` and `num_classes`; nothing where the images are unknown.
    """
    import models

    if not head_options(task):
        return models.check_options(model, options, **shape)
    from models.segmentation import segmentor_problems

    return segmentor_problems(model, options, **shape)


def network_cost(task: str, model: str, options: Mapping[str, Any], **shape: int) -> ModelCost:
    """Return parameters and multiply-accumulates of a network of a task for one image.

    Args:
        task: Name of the task.
        model: Name of the network.
        options: Options of the network and of its head.
        shape: `image_size`, `in_chans` and `num_classes`.

    Raises:
        ModelOptionError: The name or an option is unknown, or a value impossible.
    """
    import models

    if not head_options(task):
        return models.model_cost(model, options, **shape)
    from models.segmentation import segmentor_cost

    return segmentor_cost(model, options, **shape)
