"""Rules of the section `dataset` that need the facts about its images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.config.searched_values import Setting, domains_of
from orchestrator.config.sections.dataset import DatasetConfig
from orchestrator.config.sections.model import ModelConfig
from orchestrator.config.sections.resources import ResourcesConfig
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.tasks.facts import TaskFacts
from orchestrator.config.tasks.networks import facts_of_images
from orchestrator.config.tasks.registry import list_tasks, task_facts
from orchestrator.config.validation.pydantic_problems import unknown
from orchestrator.errors import DataError, Problem

if TYPE_CHECKING:
    from orchestrator.data import DatasetFacts

__all__ = ["decoder_problems", "fraction_problems", "image_facts", "map_problems"]

_DECODING = ("decoder", "scaled_decoding")
_MAP_CLASSES = "semantic_classes"  # option of detectors that train on maps of classes as well


def image_facts(dataset: DatasetConfig | None, task: str) -> tuple[DatasetFacts | None, list[Problem]]:
    """Return the facts about the dataset, or None where it cannot be used, and the problems of its section.

    Args:
        dataset: Section `dataset`; None where it is not valid.
        task: Name of the task.
    """
    from orchestrator.data import list_datasets

    if dataset is None:
        return None, []
    annotation = task_facts(task).annotation if task in list_tasks() else ""
    known = list_datasets(annotation)
    if (dataset.name is None) == (dataset.uri is None):
        both = "give one of name and uri, not both" if dataset.name else "is missing"
        remedy = f"{both}. Use name: {known[0]}, or the uri of a dataset that `spatialsweep data prepare` made"
        return None, [Problem("dataset.name", remedy)]
    if dataset.name is not None and dataset.name not in known:
        return None, [_name_problem(dataset.name, task, annotation)]
    try:
        facts = facts_of_images(dataset, task)
    except DataError as error:
        return None, [Problem("dataset.uri", str(error))]
    problems = [*_normalization_problems(dataset, facts), *_split_problems(dataset, facts)]
    if facts.annotation:
        problems += _crop_problems(dataset, task)
    else:
        problems += _decoding_problems(dataset, facts)
    if not facts.annotation and dataset.image_size is not None and not facts.files:
        size = f"got {dataset.image_size}; these images have {facts.image_size} px and keep them. Leave it out"
        return facts, [Problem("dataset.image_size", size), *problems]
    return facts, problems


def _name_problem(name: str, task: str, annotation: str) -> Problem:
    """Return the problem of a name that is no dataset with what the task reads."""
    from orchestrator.data.datasets import ANNOTATED, list_datasets

    known = list_datasets(annotation)
    if annotation and name in list_datasets():
        rule = f"its images have one label each, and {task} needs {annotation}. Use {' or '.join(known)}"
        return Problem("dataset.name", f"got {name}; {rule}")
    if annotation or name not in ANNOTATED:
        return unknown("dataset.name", name, known)
    rule = f"its images have boxes, masks and maps of classes, and {task} needs images with one label each"
    tasks = " or ".join(facts.name for facts in map(task_facts, list_tasks()) if name in _read_by(facts))
    return Problem("dataset.name", f"got {name}; {rule}. Use {' or '.join(known)}, or task: {tasks}")


def _read_by(facts: TaskFacts) -> list[str]:
    """Return the names of the annotated datasets that a task reads."""
    from orchestrator.data import list_datasets

    return list_datasets(facts.annotation) if facts.annotation else []


def _crop_problems(dataset: DatasetConfig, task: str) -> Iterator[Problem]:
    """Yield settings of image files with one label each that annotated images do not use."""
    for name in ("crop_pct", "interpolation", "decode_processes", *_DECODING):
        given = getattr(dataset, name)
        if given != DatasetConfig.model_fields[name].default:
            yield Problem(f"dataset.{name}", f"got {given!r}; images of {task} are resized whole. Leave it out")


def _decoding_problems(dataset: DatasetConfig, facts: DatasetFacts) -> Iterator[Problem]:
    """Yield settings of the decoding of image files that small images or another decoder do not use."""
    if facts.files:
        if dataset.scaled_decoding and dataset.decoder != "torchvision":
            rule = f"got true with decoder: {dataset.decoder}, which decodes whole images"
            yield Problem("dataset.scaled_decoding", f"{rule}. Use decoder: torchvision, or leave it out")
        return
    for name in _DECODING:
        given = getattr(dataset, name)
        if given != DatasetConfig.model_fields[name].default:
            yield Problem(f"dataset.{name}", f"got {given!r}; these images are stored as pixels. Leave it out")


def decoder_problems(dataset: DatasetConfig, training: TrainingConfig, search: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the problem of a policy of augmentation, which Pillow computes, with images on a GPU.

    Args:
        dataset: Section `dataset`.
        training: Section `training`, the fixed values.
        search: Searched domains by name.
    """
    policies = [name for name in Setting.of("auto_augment", training, search).values if name]
    if dataset.decoder == "nvjpeg" and policies:
        rule = f"got nvjpeg with auto_augment: {policies[0]}, which changes images on the CPU"
        yield Problem("dataset.decoder", f"{rule}. Use torchvision, or leave auto_augment out")


def fraction_problems(dataset: DatasetConfig, facts: DatasetFacts, resources: ResourcesConfig) -> Iterator[Problem]:
    """Yield the problem of a share of the training images that leaves a worker with fewer than two of them.

    Args:
        dataset: Section `dataset`.
        facts: Facts about its images.
        resources: Section `resources`, which sets the number of workers.
    """
    if dataset.train_fraction == 1:
        return
    classes = 1 if facts.annotation else facts.num_classes
    training = facts.train_images * (1.0 if dataset.select_on == "test" else 1 - dataset.validation_fraction)
    left = max(classes, round(training * dataset.train_fraction))
    least = 2 * resources.max_workers
    if left < least:
        yield Problem(
            "dataset.train_fraction",
            f"got {dataset.train_fraction}; it leaves about {left} training images, and each of the "
            f"{resources.max_workers} workers needs at least 2. Use {math.ceil(least / training * 1000) / 1000:g} or "
            "more",
        )


def map_problems(model: ModelConfig | None, search: Mapping[str, Any], facts: DatasetFacts) -> Iterator[Problem]:
    """Yield the problem of a detector with a branch for maps of classes, whose images have none or have more classes.

    Args:
        model: Section `model`; None where it is missing or not valid.
        search: Searched domains by name.
        facts: Facts about the images.
    """
    given = [] if model is None else [(f"model.options.{_MAP_CLASSES}", model.options.get(_MAP_CLASSES))]
    given += [
        (f"search.{name}", value) for name, domain in domains_of(_MAP_CLASSES, search) for value in domain.corners()
    ]
    for where, value in given:
        if not isinstance(value, int) or value < 1 or value >= facts.map_classes > 0:
            continue
        if facts.map_classes:
            rule = f"the maps of these images have {facts.map_classes} classes. Use {facts.map_classes}"
        else:
            rule = "these images have no maps of classes. Use others, such as coco-stuffthings, or leave it out"
        yield Problem(where, f"got {value}; {rule}")


def _normalization_problems(dataset: DatasetConfig, facts: DatasetFacts) -> Iterator[Problem]:
    """Yield the problems of a mean and a deviation that are not those of the training images."""
    if (dataset.mean is None) != (dataset.std is None):
        given, other = ("mean", "std") if dataset.std is None else ("std", "mean")
        yield Problem(f"dataset.{other}", f"is missing beside {given}. Give both, for pixels in [0, 1]")
    for name, numbers in (("mean", dataset.mean), ("std", dataset.std)):
        if numbers is not None and len(numbers) != facts.in_chans:
            rule = f"these images have {facts.in_chans} channels. Give a number for each"
            yield Problem(f"dataset.{name}", f"got {len(numbers)} numbers; {rule}")
    if dataset.normalization != "imagenet":
        return
    if dataset.mean is not None or dataset.std is not None:
        yield Problem("dataset.normalization", "got imagenet beside mean and std. Leave one of them out")
    elif facts.in_chans != 3:
        rule = f"these images have {facts.in_chans} channels, and its numbers are for 3. Use measured"
        yield Problem("dataset.normalization", f"got imagenet; {rule}")


def _split_problems(dataset: DatasetConfig, facts: DatasetFacts) -> Iterator[Problem]:
    if dataset.select_on == "test":
        return
    if facts.annotation:  # drawn without regard to classes, of which an image has several
        share, needed = 1 / facts.train_images, "one"
    else:
        share, needed = facts.num_classes / facts.train_images, "one per class"
    if not share <= dataset.validation_fraction <= 1 - share:
        yield Problem(
            "dataset.validation_fraction",
            f"got {dataset.validation_fraction}; both parts of the {facts.train_images} training images need {needed}. "
            f"Use {math.ceil(share * 1000) / 1000:g} to {math.floor((1 - share) * 1000) / 1000:g}",
        )
