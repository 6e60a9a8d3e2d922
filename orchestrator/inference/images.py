"""Images for a trained network: a split of a dataset, normalised and cropped as in its training."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from orchestrator.errors import CheckpointError, DataError, did_you_mean
from orchestrator.inference.trained_network import TrainedNetwork
from orchestrator.records.folder.known_servers import is_known, is_server, note_dataset
from orchestrator.uris import without_password

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from orchestrator.config.sections.dataset import DatasetConfig
    from orchestrator.data import ImageDataset
    from orchestrator.data.scenes import SceneDataset
    from orchestrator.training.evaluation_settings import EvaluationSettings
    from orchestrator.training.images.device_images import Normalisation
    from orchestrator.training.images.image_files import ImageFiles
    from orchestrator.training.images.split import Split
    from orchestrator.training.tasks.task import Task

__all__ = [
    "NetworkImages",
    "dataset_of",
    "logits_in_batches",
    "place_files",
    "place_for_network",
    "recorded_settings",
    "sample_images",
]

_CROP_PCT, _INTERPOLATION = 0.875, "bicubic"  # where the settings of the run are unknown
_UNCROPPED = 1.0
_FILES = "files"  # in place of the name of a dataset
_NO_LABEL = -1
_MOST_VALUES = 2**25  # of a sample of annotated images, which may be large: 128 MiB
_DECODE_PROCESSES = 4
_DECODED_IN_PROCESS = 128  # images, at most: starting processes costs more


@dataclasses.dataclass(frozen=True)
class NetworkImages:
    """Some images of a split.

    Args:
        inputs: Normalised images, the input of the network, (N, C, H, W).
        pixels: The same images with pixels in [0, 1], (N, C, H, W).
        labels: Classes of the images, (N,); -1 for annotated images, which have no single one.
        positions: Positions of the images in the split.
        dataset: Name or URI of the dataset, without a password.
        split: Name of the split.
        crop_pct: Share of the shorter side of image files that was kept.
        sizes_px: Width and height of each image file; None for images that are not cropped.
    """

    inputs: Tensor
    pixels: Tensor
    labels: Tensor
    positions: tuple[int, ...]
    dataset: str
    split: str
    crop_pct: float = 1.0
    sizes_px: tuple[tuple[int, int], ...] | None = None


def place_for_network(
    network: nn.Module,
    dataset: str,
    *,
    split: str,
    settings: EvaluationSettings | None,
    crop_pct: float | None = None,
    tta: str | None = None,
    datasets_folder: Path,
    device: torch.device,
    label: str,
) -> Split:
    """Place a split on a device, normalised and cropped as in the training of a network.

    Args:
        network: Result of `load_model`.
        dataset: Name of a registered dataset, or URI of a prepared one.
        split: Name of the split.
        settings: Evaluation settings of the network's run; None where they are unknown.
        crop_pct: Share of the shorter side of image files to keep, instead of the run's.
        tta: Test-time augmentation instead of the run's.
        datasets_folder: Folder of the registered datasets.
        device: Target device.
        label: Name of the network in error messages.

    Raises:
        CheckpointError: The classes of the network differ from the dataset's.
        DataError: There is no such dataset or split, or its images do not fit.
    """
    from orchestrator.training.images.decoded_images import DecodedSplit
    from orchestrator.training.tasks.registry import find_task

    task = find_task(cast(str, network.task))
    names = cast(tuple[str, ...], network.class_names)
    images = _dataset_of_classes(dataset, split, names, datasets_folder, label, task=task)
    config, normalisation = _reading(network, dataset, settings, crop_pct, tta)
    size = cast(int, network.trained_image_size)
    placed = task.place_split(images, split, device, config, normalisation)
    if (placed.image_size, placed.in_chans) != (size, len(normalisation.mean)):
        raise DataError(
            f"{dataset}: has images of {placed.in_chans} channels and {placed.image_size} px; the checkpoint was "
            f"trained on {len(normalisation.mean)} channels and {size} px"
        )
    if isinstance(placed, DecodedSplit):
        processes = min(_DECODE_PROCESSES, os.cpu_count() or 1) if len(placed) > _DECODED_IN_PROCESS else 0
        placed = dataclasses.replace(placed, processes=processes)
    return placed


def place_files(
    network: nn.Module, files: ImageFiles, settings: EvaluationSettings | None, device: torch.device
) -> Split:
    """Place image files on a device, normalised, cropped and resized as the evaluations of a network read images.

    Args:
        network: Result of `load_model`.
        files: Image files.
        settings: Evaluation settings of the network's run; None where they are unknown.
        device: Target device.

    Raises:
        DataError: The network cannot read image files.
    """
    from orchestrator.training.tasks.registry import find_task

    crop_pct = _UNCROPPED if settings is not None and settings.crop_pct is None else None
    config, normalisation = _reading(network, _FILES, settings, crop_pct, None)
    return find_task(cast(str, network.task)).place_files(files, device, config, normalisation)


def _reading(
    network: nn.Module, dataset: str, settings: EvaluationSettings | None, crop_pct: float | None, tta: str | None
) -> tuple[DatasetConfig, Normalisation]:
    """Return how the images of a network are cropped, resized and normalised."""
    from orchestrator.config.sections.dataset import DatasetConfig
    from orchestrator.training.images.device_images import Normalisation

    read = {
        "uri": dataset,
        "image_size": network.trained_image_size,
        "crop_pct": crop_pct or (settings and settings.crop_pct) or _CROP_PCT,
        "interpolation": (settings and settings.interpolation) or _INTERPOLATION,
        "tta": tta or (settings.tta if settings else "none"),
        "resize": settings.resize if settings else "keep_ratio",
    }
    mean, std = (cast(tuple[float, ...], values) for values in (network.pixel_mean, network.pixel_std))
    return DatasetConfig.model_validate(read), Normalisation(mean, std)


def _dataset_of_classes(
    dataset: str, split: str, class_names: tuple[str, ...], datasets_folder: Path, label: str, *, task: Task
) -> ImageDataset | SceneDataset:
    """Open a dataset and check that it has a split and the classes of a network.

    Raises:
        CheckpointError: It has other classes.
        DataError: There is no such dataset or split, or its images do not have what the task reads.
    """
    from orchestrator.data import list_datasets, locate_dataset, open_any_dataset
    from orchestrator.data.datasets import ANNOTATED

    named = dataset in (*list_datasets(), *ANNOTATED)
    images = open_any_dataset(locate_dataset(dataset if named else None, None if named else dataset, datasets_folder))
    try:
        found = task.class_names(images)
    except DataError as error:
        raise DataError(f"{dataset}: {error}") from None
    if split not in images.splits:
        raise DataError(f"{dataset}: has no split '{split}'. {did_you_mean(split, list(images.splits))}")
    if found != class_names:
        raise CheckpointError(
            f"{label}: its {len(class_names)} classes are not the {len(found)} of {dataset}; "
            "use images of the classes it was trained on"
        )
    return images


def recorded_settings(
    network: nn.Module, dataset: Mapping[str, Any], training: Mapping[str, Any]
) -> EvaluationSettings | None:
    """Return the evaluation settings of a network's run; None where they are unknown.

    Args:
        network: Result of `load_model`; settings stored with its weights take precedence.
        dataset: Known settings of the section `dataset` of its sweep.
        training: Known settings of the section `training` of its trial.
    """
    from orchestrator.training.evaluation_settings import EvaluationSettings

    stored = cast("EvaluationSettings | None", getattr(network, "evaluation_settings", None))
    if stored is not None or not (dataset or training):
        return stored
    known = {key: dataset.get(key) for key in ("crop_pct", "interpolation")}
    known |= {key: dataset[key] for key in ("tta", "resize") if dataset.get(key) is not None}
    known |= {key: training[key] for key in ("precision", "channels_last") if training.get(key) is not None}
    return EvaluationSettings.model_validate(known, strict=False)  # MLflow stores settings as texts


def dataset_of(trained: TrainedNetwork, dataset: str | None) -> str:
    """Return the given dataset, else the one a network was trained on.

    Raises:
        DataError: None is given, and the training's is unknown, or on a server that the user has never named.
    """
    if dataset:
        note_dataset(dataset)
        return dataset
    recorded = trained.dataset.get("uri") or trained.dataset.get("name")
    if recorded is None:
        raise DataError(f"{trained.label}: the dataset of its training is unknown. Name one with --dataset")
    uri = str(recorded)
    if is_server(uri) and not is_known(uri):  # reading it would send the user's credentials there
        shown = "".join(letter for letter in without_password(uri) if letter.isprintable())
        raise DataError(
            f"{trained.label}: the images of its training are at {shown}, a server you have not named; it may be "
            f"somebody else's. If it is yours, add --dataset '{shown}'"
        )
    return uri


def sample_images(trained: TrainedNetwork, dataset: str | None, *, split: str, count: int) -> NetworkImages:
    """Read images spread evenly over a split, in an order that mixes its classes, the same at every call.

    Args:
        trained: Network to read the images for.
        dataset: Name of a registered dataset, or URI of a prepared one; None takes the one it was trained on.
        split: Name of the split.
        count: Number of images; a smaller split is read whole. Annotated images are fewer: all have the size that is
            most frequent among them, and they take 128 MiB at most.

    Raises:
        CheckpointError: The classes of the network differ from the dataset's.
        DataError: There is no such dataset or split, or its images do not fit.
    """
    import numpy as np
    import torch

    network, uri = trained.network, dataset_of(trained, dataset)
    placed = place_for_network(
        network,
        uri,
        split=split,
        settings=recorded_settings(network, trained.dataset, trained.training),
        datasets_folder=trained.runs_dir / "datasets",
        device=torch.device("cpu"),
        label=trained.label,
    )
    positions = np.unique(np.linspace(0, len(placed) - 1, min(count, len(placed))).round().astype(int))
    positions = np.random.default_rng(0).permutation(positions)
    inputs, labels, positions = _read(placed, positions, getattr(network, "only_px", None))
    mean, std = (
        torch.tensor(cast(tuple[float, ...], values)).view(1, -1, 1, 1)
        for values in (network.pixel_mean, network.pixel_std)
    )
    pixels = (inputs * std + mean).clamp(0, 1)
    return NetworkImages(
        inputs=inputs,
        pixels=pixels,
        labels=labels,
        positions=tuple(positions.tolist()),
        dataset=without_password(uri),
        split=split,
        **_crop(placed, positions),
    )


def logits_in_batches(network: Callable[[Tensor], Tensor], images: Tensor, batch_size: int) -> Tensor:
    """Return the logits of images, (N, num_classes), without gradients.

    Args:
        network: Network in evaluation mode, or a function of images.
        images: Normalised images, (N, C, H, W).
        batch_size: Images per forward pass.
    """
    import torch

    with torch.no_grad():
        return torch.cat([network(batch) for batch in images.split(batch_size)])


def _crop(placed: Split, positions: Any) -> dict[str, Any]:
    """Return the crop of image files and their sizes in pixels; nothing for images that are not cropped."""
    from orchestrator.data.decoding import image_size
    from orchestrator.training.images.decoded_images import DecodedSplit

    if not isinstance(placed, DecodedSplit):
        return {}
    files = [placed.files[int(placed.positions[position])] for position in positions]
    sizes_px = tuple(image_size(io.BytesIO(file)) for file in files)
    return {"crop_pct": placed.transforms.crop_pct, "sizes_px": sizes_px}


def _read(placed: Split, positions: Any, only_px: int | None) -> tuple[Tensor, Tensor, Any]:
    """Return images, labels and positions; of images of several sizes those of the size that is most frequent.

    Args:
        placed: Split to read.
        positions: Positions within it.
        only_px: Side of the squares that the network reads alone, to which annotated images are cut; None for any size.
    """
    import numpy as np
    import torch

    from orchestrator.training.tasks.scenes import SceneSplit

    if not isinstance(placed, SceneSplit):
        return *placed.batch(torch.from_numpy(positions)), positions
    of_size: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    values = 0
    for position in positions.tolist():
        image = placed.evaluated(position)[0][:, :only_px, :only_px]
        of_size.setdefault(image.shape, []).append((position, image))
        values += image.numel()
        if values > _MOST_VALUES:
            break
    kept = max(of_size.values(), key=len)
    inputs = torch.stack([image for _, image in kept]).to(placed.mean.device)
    return inputs, torch.full((len(kept),), _NO_LABEL), np.asarray([position for position, _ in kept])
