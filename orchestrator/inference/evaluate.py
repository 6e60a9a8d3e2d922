"""Evaluation of a trained network on a split of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from orchestrator.config.sections.dataset import TestTimeAugmentation
from orchestrator.config.tasks.registry import DEFAULT_TASK, task_facts
from orchestrator.errors import ConfigError, Problem, did_you_mean
from orchestrator.inference.images import place_for_network, recorded_settings
from orchestrator.inference.load import load_model
from orchestrator.inference.loaded_network import LoadedNetwork, trial_algorithms
from orchestrator.inference.trained_network import find_network
from orchestrator.inference.weights.converted import WeightsOf, converted_weights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from orchestrator.training.evaluation_settings import EvaluationSettings
    from orchestrator.training.images.split import Split

__all__ = ["Evaluation", "evaluate_checkpoint"]


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Args:
        images: Number of images of the split.
        metrics: Metrics of the network's task by name; of classification `top1` and `top5`, the shares of images whose
            class comes first and among the first five, and `loss`, the mean cross-entropy.
        notes: Differences between this evaluation and those of the network's run, a line each.
        task: Name of the task.
    """

    images: int
    metrics: Mapping[str, float]
    notes: tuple[str, ...] = ()
    task: str = DEFAULT_TASK

    def __getattr__(self, name: str) -> float:
        """Return a metric as an attribute, such as `top1`."""
        metrics = self.__dict__.get("metrics", {})
        if name not in metrics:
            raise AttributeError(f"{type(self).__name__} has no attribute or metric '{name}'")
        value: float = metrics[name]
        return value

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data, each metric under its name."""
        return {"images": self.images, **self.metrics, "notes": list(self.notes), "task": self.task}


def evaluate_checkpoint(
    source: str | Path,
    dataset: str,
    *,
    split: str = "test",
    crop_pct: float | None = None,
    tta: str | None = None,
    tracking_uri: str | None = None,
    allow_code: bool = False,
    datasets_folder: Path = Path("runs/datasets"),
    model: str | None = None,
    weights: str | None = None,
) -> Evaluation:
    """Evaluate a checkpoint in this process with the settings of its run, on a GPU where there is one; blocks.

    Images are normalised, cropped and resized as in the run, and the arithmetic has the type it had there, so that on
    the same images and kind of device the metrics are those of the run (for classification `test/top1`).

    Args:
        source: Checkpoint, see `load_model`.
        dataset: Name of a registered dataset, or URI of a prepared one.
        split: Name of the split.
        crop_pct: Share of the shorter side of image files to keep; None takes the run's.
        tta: Test-time augmentation, a value of `dataset.tta`; None takes the run's.
        tracking_uri: MLflow address of the run, see `load_model`.
        allow_code: Run the source code of a network that the user has not run before, see `load_model`.
        datasets_folder: Folder of the registered datasets.
        model: Name of the network of weights of another program, such as its authors'; None for our own checkpoints.
        weights: `ema` or `plain`, for a file of weights that holds both; None takes the moving average.

    Raises:
        ConfigError: `crop_pct` is no share, or `tta` is unknown or not one of the network's task.
        CheckpointError: There is no such checkpoint, or its classes differ from the dataset's.
        DataError: There is no such dataset or split.
    """
    from orchestrator.training.evaluation_settings import EvaluationSettings

    _check_settings(crop_pct, tta)
    read: tuple[str, ...] = ()
    if model is None:
        network, recorded = _network_of_run(source, tracking_uri=tracking_uri, allow_code=allow_code)
    else:
        of = WeightsOf(model, weights, dataset)
        network, recorded, read = _network_of_weights(source, of, tracking_uri, datasets_folder)
    _require_tta(cast(str, network.task), tta)
    settings = recorded or EvaluationSettings()
    device = _device()
    placed = place_for_network(
        network,
        dataset,
        split=split,
        settings=settings,
        crop_pct=crop_pct,
        tta=tta,
        datasets_folder=datasets_folder,
        device=device,
        label=str(source),
    )
    result = _evaluate(LoadedNetwork(settings.place(network, device), settings), placed, device)
    return Evaluation(len(placed), result, (*read, *_differences(recorded, placed, crop_pct)), cast(str, network.task))


def _require_tta(task: str, tta: str | None) -> None:
    """Check that a task has a test-time augmentation.

    Raises:
        ConfigError: It does not have it.
    """
    facts = task_facts(task)
    if tta is not None and tta not in facts.tta:
        rule = f"{facts.name} does not have it. Use {' or '.join(facts.tta)}"
        raise ConfigError([Problem("tta", f"got {tta!r}; {rule}")])


def _device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _evaluate(loaded: LoadedNetwork, placed: Split, device: torch.device) -> Mapping[str, float]:
    """Evaluate a network with the algorithms of a trial."""
    from orchestrator.training.evaluation import evaluate
    from orchestrator.training.tasks.registry import find_task
    from orchestrator.training.workers import Workers

    network = loaded.evaluated
    task, classes = find_task(cast(str, network.task)), len(cast(tuple[str, ...], network.class_names))
    with trial_algorithms():
        return evaluate(loaded, placed, Workers(device=device), task, num_classes=classes)


def _check_settings(crop_pct: float | None, tta: str | None) -> None:
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise ConfigError([Problem("crop_pct", f"got {crop_pct:g}; a share is above 0 and at most 1. Use 0.875")])
    if tta is not None and tta not in (known := get_args(TestTimeAugmentation)):
        raise ConfigError([Problem("tta", f"got {tta!r}, which is none. {did_you_mean(tta, known)}")])


def _network_of_run(
    source: str | Path, *, tracking_uri: str | None, allow_code: bool
) -> tuple[nn.Module, EvaluationSettings | None]:
    """Load a checkpoint of a run and return it with the evaluation settings of the run."""
    network = load_model(source, tracking_uri=tracking_uri, allow_code=allow_code)
    recorded = recorded_settings(network, {}, {})
    if recorded is None:  # a checkpoint of a version that did not store them; its sweep may have them
        trained = find_network(source, tracking_uri=tracking_uri, allow_code=allow_code)
        recorded = recorded_settings(network, trained.dataset, trained.training)
    return network, recorded


def _network_of_weights(
    source: str | Path, of: WeightsOf, tracking_uri: str | None, datasets_folder: Path
) -> tuple[nn.Module, EvaluationSettings | None, tuple[str, ...]]:
    """Load weights of another program and return the network with its evaluation settings and the notes about it."""
    with converted_weights(source, of, tracking_uri=tracking_uri, datasets_folder=datasets_folder) as converted:
        network = load_model(converted.path)
    return network, recorded_settings(network, {}, {}), converted.notes


def _differences(recorded: EvaluationSettings | None, placed: Split, crop_pct: float | None) -> Iterator[str]:
    """Yield the differences between this evaluation and those of the run, a line each."""
    from orchestrator.training.images.decoded_images import DecodedSplit

    if recorded is None:
        yield "the checkpoint does not record the evaluation settings of its run; the arithmetic is float32"
    elif placed.tta != recorded.tta:
        yield f"tta {placed.tta}: the run had {recorded.tta}"
    if not isinstance(placed, DecodedSplit):
        if crop_pct is not None:
            yield f"crop_pct {crop_pct:g} has no effect: these images are not cropped"
        return
    used = f"crop_pct {placed.transforms.crop_pct:g}, {placed.transforms.evaluation_interpolation}"
    if recorded is None:
        yield f"{used}: the crop of the run is unknown"
    elif recorded.crop_pct is None:
        yield f"{used}: the run did not crop its images"
    elif crop_pct is not None and crop_pct != recorded.crop_pct:
        yield f"{used}: the run had crop_pct {recorded.crop_pct:g}"
