"""Networks and images of a task, for validation and search: options that it adds, and the dataset that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.config.sections.dataset import DatasetConfig
from orchestrator.config.tasks.registry import list_tasks, task_facts

if TYPE_CHECKING:
    from models import ModelCost, ModelOption, OptionProblem
    from orchestrator.data import DatasetFacts

__all__ = ["facts_of_images", "head_options", "network_cost", "option_problems", "searchable_options"]


@dataclass(frozen=True, kw_only=True)
class _Networks:
    """Networks that the tasks with one kind of head use.

    Args:
        options: Options of the head by name.
        problems: Function that returns the problems of a name and of options, of the network and of its head.
        cost: Function that counts a network with its head.
    """

    options: Mapping[str, ModelOption]
    problems: Callable[..., list[OptionProblem]]
    cost: Callable[..., ModelCost]


def _without_head() -> _Networks:
    import models

    return _Networks(options={}, problems=models.check_options, cost=models.model_cost)


def _segmentors() -> _Networks:
    from models.segmentation import HEAD_OPTIONS, segmentor_cost, segmentor_problems

    return _Networks(options=HEAD_OPTIONS, problems=segmentor_problems, cost=segmentor_cost)


def _detectors(*, masks: bool) -> _Networks:
    from models.detection import detection_options, detector_cost, detector_problems

    return _Networks(
        options=detection_options(masks),
        problems=partial(detector_problems, masks=masks),
        cost=partial(detector_cost, masks=masks),
    )


_NETWORKS: Mapping[str, Callable[[], _Networks]] = MappingProxyType(
    {
        "": _without_head,
        "segmentation": _segmentors,
        "detection": partial(_detectors, masks=False),
        "instances": partial(_detectors, masks=True),
    }
)
"""Networks by `TaskFacts.head`; called when they are needed, since their import is that of torch."""


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
    return _networks(task).options


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
    return _networks(task).problems(model, options, **shape)


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
    return _networks(task).cost(model, options, **shape)


def _networks(task: str) -> _Networks:
    """Return the networks of a task; those of an unknown one have no head."""
    return _NETWORKS[task_facts(task).head if task in list_tasks() else ""]()
