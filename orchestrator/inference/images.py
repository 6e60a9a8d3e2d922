"""Real images for a trained network: of a dataset's split, normalised as it was trained."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from orchestrator.errors import CheckpointError, DataError, did_you_mean
from orchestrator.inference.trained_network import TrainedNetwork

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from orchestrator.training.evaluation_settings import EvaluationSettings
    from orchestrator.training.images.decoded_images import DecodedSplit
    from orchestrator.training.images.device_images import DeviceSplit

__all__ = ["CROP_PCT", "INTERPOLATION", "NetworkImages", "dataset_of", "images_for", "own_settings", "some_images"]

CROP_PCT, INTERPOLATION = 0.875, "bicubic"
"""How image files are cropped where nothing tells how a run did it."""
_DECODE_PROCESSES = 4
_DECODED_HERE = 128  # images, at most


@dataclasses.dataclass(frozen=True)
class NetworkImages:
    """A few images.

    Args:
        inputs: As the network takes them, (N, C, H, W).
        pixels: The same in 0 to 1, (N, C, H, W).
        labels: Their classes, (N,).
        positions: Which of the split they are.
        dataset: Name or URI, without a password.
        split: Of the dataset.
        crop_pct: Share of the shorter side that was kept of image files.
        sizes_px: Width and height of each image file; None for images that are seen whole.
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
    model: nn.Module,
    dataset: str,
    *,
    split: str,
    crop_pct: float,
    interpolation: str,
    datasets_folder: Path,
    device: torch.device,
    shown: str,
) -> DeviceSplit | DecodedSplit:
    """A split as a network was trained to see it.

    Args:
        model: As `load_model` gives it.
        dataset: A registered dataset, or the URI of a prepared one.
        split: Of the dataset.
        crop_pct: Share of the shorter side that is kept of image files.
        interpolation: Of image files.
        datasets_folder: Where registered datasets are kept.
        device: Where the images go.
        shown: What messages call the network.

    Raises:
        CheckpointError: Its classes are others.
        DataError: There is no such dataset or split, or its images do not fit.
    """
    from orchestrator.config.sweep import DatasetConfig
    from orchestrator.data import list_datasets, locate_dataset, open_dataset
    from orchestrator.training.images.decoded_images import DecodedSplit
    from orchestrator.training.images.device_images import Normalisation
    from orchestrator.training.images.placement import place_split, splits_of

    named = dataset in list_datasets()
    images = open_dataset(locate_dataset(dataset if named else None, None if named else dataset, datasets_folder))
    known, class_names = splits_of(images)
    if split not in known:
        raise DataError(f"{dataset}: has no split '{split}'. {did_you_mean(split, known)}")
    if class_names != model.class_names:
        raise CheckpointError(
            f"{shown}: tells {len(cast(tuple[str, ...], model.class_names))} classes apart that are not the "
            f"{len(class_names)} of {dataset}; take images of the classes it was trained on"
        )
    size = cast(int, model.trained_image_size)
    settings = {"uri": dataset, "image_size": size, "crop_pct": crop_pct, "interpolation": interpolation}
    config = DatasetConfig.model_validate(settings)
    told = Normalisation(cast(tuple[float, ...], model.pixel_mean), cast(tuple[float, ...], model.pixel_std))
    placed = place_split(images, split, device, config, told)
    if (placed.image_size, placed.in_chans) != (size, len(told.mean)):
        raise DataError(
            f"{dataset}: has images of {placed.in_chans} channels and {placed.image_size} px; the checkpoint was "
            f"trained on {len(told.mean)} channels and {size} px"
        )
    if isinstance(placed, DecodedSplit):  # processes that decode a handful of images cost more than they spare
        processes = min(_DECODE_PROCESSES, os.cpu_count() or 1) if len(placed) > _DECODED_HERE else 0
        placed = dataclasses.replace(placed, processes=processes)
    return placed


def recorded_settings(
    model: nn.Module, dataset: Mapping[str, Any], training: Mapping[str, Any]
) -> EvaluationSettings | None:
    """How the run of a network looked at images; None where nothing tells.

    Args:
        model: As `load_model` gives it; what was kept with its weights counts first.
        dataset: Section `dataset` of its sweep, as far as it is known.
        training: Section `training` of its trial, likewise.
    """
    from orchestrator.training.evaluation_settings import EvaluationSettings

    kept = cast("EvaluationSettings | None", getattr(model, "evaluation_settings", None))
    if kept is not None or not (dataset or training):
        return kept
    known = {key: dataset.get(key) for key in ("crop_pct", "interpolation")}
    known |= {key: training[key] for key in ("precision", "channels_last") if training.get(key) is not None}
    return EvaluationSettings.model_validate(known, strict=False)  # MLflow keeps texts


def dataset_of(trained: TrainedNetwork, dataset: str | None) -> str:
    """The dataset that is asked for, else the one a network was trained on.

    Raises:
        DataError: Neither is known.
    """
    known = dataset or trained.dataset.get("uri") or trained.dataset.get("name")
    if known is None:
        raise DataError(f"{trained.label}: nothing tells what it was trained on. Name the images with --dataset")
    return str(known)


def sample_images(trained: TrainedNetwork, dataset: str | None, *, split: str, count: int) -> NetworkImages:
    """Images spread evenly over a split, in an order that mixes its classes, the same at every call.

    Args:
        trained: The network.
        dataset: A registered dataset, or the URI of a prepared one; None takes what it was trained on.
        split: Of the dataset.
        count: How many; all of a smaller split.

    Raises:
        CheckpointError: Its classes are others.
        DataError: There is no such dataset or split, or its images do not fit.
    """
    import numpy as np
    import torch

    from orchestrator.uris import without_password

    model, own = trained.network, recorded_settings(trained.network, trained.dataset, trained.training)
    uri, crop_pct = dataset_of(trained, dataset), (own and own.crop_pct) or CROP_PCT
    placed = place_for_network(
        model,
        uri,
        split=split,
        crop_pct=crop_pct,
        interpolation=(own and own.interpolation) or INTERPOLATION,
        datasets_folder=trained.runs_dir / "datasets",
        device=torch.device("cpu"),
        shown=trained.label,
    )
    positions = np.unique(np.linspace(0, len(placed) - 1, min(count, len(placed))).round().astype(int))
    positions = np.random.default_rng(0).permutation(positions)
    inputs, labels = _read(placed, positions)
    mean, std = (
        torch.tensor(cast(tuple[float, ...], values)).view(1, -1, 1, 1)
        for values in (model.pixel_mean, model.pixel_std)
    )
    pixels = (inputs * std + mean).clamp(0, 1)
    return NetworkImages(
        inputs=inputs,
        pixels=pixels,
        labels=labels,
        positions=tuple(positions.tolist()),
        dataset=without_password(uri),
        split=split,
        crop_pct=crop_pct,
        sizes_px=_sizes_px(placed, positions),
    )


def _sizes_px(placed: DeviceSplit | DecodedSplit, positions: Any) -> tuple[tuple[int, int], ...] | None:
    """Width and height of image files; None where images are seen as they are stored."""
    from orchestrator.data.decoding import image_size
    from orchestrator.training.images.device_images import DeviceSplit

    if isinstance(placed, DeviceSplit):
        return None
    files = [placed.files[int(placed.positions[position])] for position in positions]
    return tuple(image_size(io.BytesIO(file)) for file in files)


def _read(placed: DeviceSplit | DecodedSplit, positions: Any) -> tuple[Tensor, Tensor]:
    import torch

    from orchestrator.training.images.device_images import DeviceSplit
    from orchestrator.training.workers import Workers

    if isinstance(placed, DeviceSplit):
        return placed.batch(torch.from_numpy(positions))
    chosen = dataclasses.replace(placed, positions=placed.positions[positions], processes=0)
    batches = list(chosen.share(Workers()))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])
