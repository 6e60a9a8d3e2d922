"""Datasets by name: what they look like, and how their Arrow file comes about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.arrow_images import ImageSplit, open_images, write_images
from orchestrator.data.digits import load_digits
from orchestrator.errors import DataError, did_you_mean

Loader = Callable[[], tuple[dict[str, ImageSplit], tuple[str, ...]]]


@dataclass(frozen=True)
class DatasetSpec:
    """What a network must know before it sees an image.

    Args:
        image_size: Side of the square images, in pixels.
        in_chans: Channels.
        num_classes: Classes.
        train_images: Images that are not test images.
        load: Reads the images from where they are distributed.
    """

    image_size: int
    in_chans: int
    num_classes: int
    train_images: int
    load: Loader


_DATASETS = {"digits": DatasetSpec(image_size=8, in_chans=1, num_classes=10, train_images=1437, load=load_digits)}


def list_datasets() -> list[str]:
    """Names `dataset.name` accepts."""
    return sorted(_DATASETS)


def dataset_spec(name: str) -> DatasetSpec:
    """The facts about a dataset.

    Raises:
        DataError: The name is unknown.
    """
    if name not in _DATASETS:
        raise DataError(f"unknown dataset '{name}'. {did_you_mean(name, list_datasets())}")
    return _DATASETS[name]


def prepare_dataset(name: str, folder: Path) -> Path:
    """Converts a dataset to Arrow once; later calls return the file at once.

    Args:
        name: A registered dataset.
        folder: Where Arrow files are kept.

    Raises:
        DataError: The name is unknown, or a file that stands there is damaged.
    """
    spec = dataset_spec(name)
    path = folder / f"{name}.arrow"
    if path.exists():
        open_images(path)
    else:
        splits, class_names = spec.load()
        write_images(path, splits, class_names)
    return path
