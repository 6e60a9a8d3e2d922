"""Prediction for image files: read, transformed and run as in an evaluation of the network."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from orchestrator.errors import CheckpointError, ConfigError, Problem
from orchestrator.inference.images import place_files, recorded_settings
from orchestrator.inference.loaded_network import LoadedNetwork, trial_algorithms
from orchestrator.inference.predict.files import find_files
from orchestrator.inference.predict.results import PredictedImage, result_of
from orchestrator.inference.throughput import device_named
from orchestrator.inference.trained_network import find_network

if TYPE_CHECKING:
    import torch
    from torch import nn

    from orchestrator.training.evaluation_settings import EvaluationSettings
    from orchestrator.training.images.image_files import ImageFiles

__all__ = ["SCORE", "TOP", "check_choices", "predict", "predicted_images", "size_notes"]

SCORE, TOP = 0.5, 5
"""Smallest score of a detected object, and number of classes of an image in classification."""

_BATCH = 16  # images
_BATCH_PIXELS = 2**22


def predict(
    model: str | Path | nn.Module,
    images: str | Path | Sequence[str | Path],
    *,
    score: float = SCORE,
    top: int = TOP,
    device: str | None = None,
    trial: int | None = None,
    runs_dir: str | Path | None = None,
    tracking_uri: str | None = None,
    allow_code: bool = False,
) -> list[PredictedImage]:
    """Predict classes, objects or maps of image files with a trained network; blocks.

    Images are decoded, resized, cropped and normalised, and the network is run, as in the evaluations of its trial.

    Args:
        model: Path of a `best.pt`, MLflow run of a trial, name or folder of a sweep, or result of `load_model`, which
            is moved to the device.
        images: Image file or folder of image files, or several of them.
        score: Smallest score of a detected object, from 0 to 1.
        top: Number of classes of an image to return, in classification.
        device: Name of the device, such as `cuda:1`; None takes CUDA where there is one, else the CPU.
        trial: Number of a trial of a sweep; None takes its best.
        runs_dir: Folder of results; None takes the default.
        tracking_uri: MLflow address of a run, see `load_model`.
        allow_code: Run the source code of a network that the user has not run before, see `load_model`.

    Returns:
        A result for each image: `ClassifiedImage`, `SegmentedImage` or `DetectedImage`, as the task of the network is.

    Raises:
        ConfigError: A setting is out of its range, or there is no such device.
        DataError: An image cannot be read, or the task of the network has no predictions that can be shown.
        CheckpointError: There is no such network.
    """
    check_choices(score, top)
    given = [images] if isinstance(images, str | Path) else list(images)
    files, _ = find_files(given)
    if isinstance(model, str | Path):
        trained = find_network(model, trial=trial, runs_dir=runs_dir, tracking_uri=tracking_uri, allow_code=allow_code)
        network, settings = trained.network, recorded_settings(trained.network, trained.dataset, trained.training)
    else:
        _require_loaded(model)
        network, settings = model, recorded_settings(model, {}, {})
    return list(predicted_images(network, settings, files, score=score, top=top, device=device_named(device)))


def predicted_images(
    network: nn.Module,
    settings: EvaluationSettings | None,
    files: ImageFiles,
    *,
    score: float = SCORE,
    top: int = TOP,
    device: torch.device,
) -> Iterator[PredictedImage]:
    """Yield the results for image files in their order.

    Args:
        network: Result of `load_model`; it is moved to the device.
        settings: Evaluation settings of the network's run; None where they are unknown.
        files: Image files.
        score: Smallest score of a detected object.
        top: Number of classes of an image to keep, in classification.
        device: Target device.

    Raises:
        DataError: An image cannot be read any more, or the task has no predictions that can be shown.
    """
    import torch

    from orchestrator.training.evaluation_settings import EvaluationSettings
    from orchestrator.training.tasks.registry import find_task

    used = settings or EvaluationSettings()
    task, names = find_task(cast(str, network.task)), cast(tuple[str, ...], network.class_names)
    split = place_files(network, files, settings, device)
    loaded = LoadedNetwork(used.place(network, device).eval(), used)
    for places in _batches(files):
        with torch.no_grad(), trial_algorithms():
            images, targets = split.batch(torch.tensor(places))
            outputs = task.predict(loaded, images, split.tta)
            found = task.predictions(outputs, targets, least_score=score)
        for place, prediction in zip(places, found, strict=True):
            height, width = files.sizes[place].tolist()
            yield result_of(prediction, files.paths[place], (height, width), names, top)


def check_choices(score: float, top: int) -> None:
    """Check the choice of objects and classes.

    Raises:
        ConfigError: One is out of its range.
    """
    problems = []
    if not 0 <= score <= 1:
        problems.append(Problem("score", f"got {score:g}; a score is from 0 to 1. Use {SCORE}"))
    if top < 1:
        problems.append(Problem("top", f"got {top}; at least 1 class is shown. Use {TOP}"))
    if problems:
        raise ConfigError(problems)


def size_notes(network: nn.Module, settings: EvaluationSettings | None, files: ImageFiles) -> Iterator[str]:
    """Yield notes about images that the network gets in another form than those of its training.

    Args:
        network: Result of `load_model`.
        settings: Evaluation settings of the network's run; None where they are unknown.
        files: Image files.
    """
    from orchestrator.config.tasks.registry import task_facts

    if settings is None:
        yield "the evaluation settings of its run are unknown; the arithmetic is float32"
    elif settings.crop_pct is None and not task_facts(cast(str, network.task)).annotation:
        side = cast(int, network.trained_image_size)
        others = int(np.any(files.sizes != side, axis=1).sum())
        if others:
            yield (
                f"{others} of {len(files)} images are not of {side} x {side} px, as all images of its training were; "
                "they are resized and cropped to the centre"
            )


def _batches(files: ImageFiles) -> Iterator[list[int]]:
    """Yield positions of consecutive images of one size, few enough for a batch."""
    for size, group in itertools.groupby(range(len(files)), key=lambda place: tuple(files.sizes[place].tolist())):
        most = max(1, min(_BATCH, _BATCH_PIXELS // (size[0] * size[1])))
        while part := list(itertools.islice(group, most)):
            yield part


def _require_loaded(model: nn.Module) -> None:
    missing = [name for name in ("task", "class_names", "pixel_mean", "trained_image_size") if not hasattr(model, name)]
    if missing:
        kind = type(model).__name__
        raise CheckpointError(f"model: {kind} lacks {', '.join(missing)}; load the network with load_model")
