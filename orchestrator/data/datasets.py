"""Datasets by name or by URI: what they look like, and where training finds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.arrow_images import ArrowImages, ImageSplit, open_images, write_images
from orchestrator.data.digits import load_digits
from orchestrator.data.manifest import read_manifest
from orchestrator.data.prepared import PreparedDataset, check_manifest, open_prepared
from orchestrator.data.storage import open_folder
from orchestrator.errors import DataError, did_you_mean

Loader = Callable[[], tuple[dict[str, ImageSplit], tuple[str, ...]]]


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What a network must know before it sees an image.

    Args:
        image_size: Side of the square images, in pixels.
        in_chans: Channels.
        num_classes: Classes.
        train_images: Images that are not test images.
        files: Whether they are image files, which are decoded and cropped when they are needed.
    """

    image_size: int
    in_chans: int
    num_classes: int
    train_images: int
    files: bool = False


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(DatasetFacts):
    """A dataset that has a name of its own here.

    Args:
        load: Reads the images from where they are distributed.
    """

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


def dataset_facts(name: str | None, uri: str | None, crop_size: int) -> DatasetFacts:
    """The facts about the dataset of a sweep, which has a name or a URI.

    Args:
        name: A registered dataset.
        uri: A prepared one.
        crop_size: Side of the square that image files are cropped to, in pixels.

    Raises:
        DataError: There is none, it is not whole, or it cannot be trained on.
    """
    if uri is None:
        return dataset_spec(name or "")
    folder = open_folder(uri)
    manifest = read_manifest(folder)
    check_manifest(folder, manifest)
    channels, height, width = manifest.image_shape or (3, crop_size, crop_size)
    if height != width:
        raise DataError(f"{folder.shown}: has images of {height} x {width} px; sweeps train on square ones")
    return DatasetFacts(
        image_size=height,
        in_chans=channels,
        num_classes=len(manifest.class_names),
        train_images=manifest.splits["train"].images,
        files=manifest.image_shape is None,
    )


def locate_dataset(name: str | None, uri: str | None, folder: Path) -> str:
    """What `open_dataset` reads, checked: the URI, or the Arrow file of a named dataset, which is made if need be.

    Args:
        name: A registered dataset.
        uri: A prepared one.
        folder: Where Arrow files of named ones are kept.

    Raises:
        DataError: The dataset is unknown, missing or damaged.
    """
    if uri is None:
        return str(prepare_dataset(name or "", folder))
    located = uri if "://" in uri else str(Path(uri).absolute())
    open_dataset(located)
    return located


def open_dataset(located: str) -> ArrowImages | PreparedDataset:
    """Maps what `locate_dataset` found: small images as arrays, or a dataset of image files.

    Raises:
        DataError: It is missing or damaged.
    """
    if "://" not in located and Path(located).suffix == ".arrow":
        return open_images(Path(located))
    dataset = open_prepared(located)
    return dataset if dataset.manifest.image_shape is None else dataset.images()


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
