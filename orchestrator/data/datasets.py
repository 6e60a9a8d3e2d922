"""Datasets by name or by URI: facts for validation, and their place on disk for training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from orchestrator.data.image_dataset import ImageDataset
from orchestrator.data.manifest import read_manifest
from orchestrator.data.prepared import check_manifest, open_prepared
from orchestrator.data.storage import open_folder
from orchestrator.errors import DataError, did_you_mean

__all__ = [
    "ANNOTATED",
    "DatasetFacts",
    "convert_once",
    "current_hash",
    "dataset_facts",
    "list_datasets",
    "locate_dataset",
    "open_dataset",
    "prepare_dataset",
]


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """Facts about a dataset that decide which networks and settings fit it.

    Args:
        image_size: Side of the square images, in pixels.
        in_chans: Number of channels.
        num_classes: Number of classes.
        train_images: Number of images that are not test images.
        files: True for image files, which are decoded and cropped when they are used.
    """

    image_size: int
    in_chans: int
    num_classes: int
    train_images: int
    files: bool = False


_NAMED: Mapping[str, DatasetFacts] = MappingProxyType(
    {
        "digits": DatasetFacts(image_size=8, in_chans=1, num_classes=10, train_images=1437),
        "fashion-mnist": DatasetFacts(image_size=28, in_chans=1, num_classes=10, train_images=60_000),
    }
)
"""Datasets by name that need no preparation: a sweep is validated before they are converted."""

ANNOTATED = frozenset({"digits-scenes"})
"""Names of embedded datasets of annotated images, which `orchestrator.data.scenes` prepares and opens."""

_EARLIER_HASHES = MappingProxyType({"5663ed2b4eac758a": "36706e9c749a0738"})
"""Hash of the digits while they were kept in one file (`digits.arrow`), and hash in their manifest: same content."""


def list_datasets() -> list[str]:
    """Return the names that `dataset.name` accepts."""
    return sorted(_NAMED)


def dataset_facts(name: str | None, uri: str | None, crop_size: int) -> DatasetFacts:
    """Return the facts about the dataset of a sweep, which has a name or a URI.

    Args:
        name: Name of a dataset of `list_datasets()`.
        uri: Folder of a prepared dataset.
        crop_size: Side of the square that image files are cropped to, in pixels.

    Raises:
        DataError: The dataset is unknown, missing, incomplete or not suited for training.
    """
    if uri is None:
        _require_known(name)
        return _NAMED[name or ""]
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
    """Return the URI or absolute path of a dataset, checked; one with a name is converted first if need be.

    Args:
        name: Name of a dataset of `list_datasets()`.
        uri: Folder of a prepared dataset.
        folder: Folder in which datasets with a name are kept.

    Raises:
        DataError: The dataset is unknown, missing or damaged.
    """
    if uri is None:
        return str(prepare_dataset(name or "", folder))
    located = uri if "://" in uri else str(Path(uri).absolute())
    open_dataset(located)
    return located


def open_dataset(located: str | Path) -> ImageDataset:
    """Open a prepared dataset.

    Args:
        located: Result of `locate_dataset`.

    Raises:
        DataError: It is missing or damaged.
    """
    return open_prepared(located)


def prepare_dataset(name: str, folder: Path) -> Path:
    """Convert a dataset with a name once; later calls check and return its folder.

    Args:
        name: Name of the dataset.
        folder: Folder in which datasets with a name are kept.

    Raises:
        DataError: The name is unknown, or the converted dataset is damaged.
    """
    _require_known(name)
    path = convert_once(name, folder)
    try:
        open_prepared(path)
    except DataError as error:
        raise DataError(f"{error} (remove this folder, and the next sweep prepares it again)") from None
    return path


def current_hash(recorded: str) -> str:
    """Return the content hash that this version gives to images whose hash an earlier version may have recorded."""
    return _EARLIER_HASHES.get(recorded, recorded)


def convert_once(name: str, folder: Path) -> Path:
    """Convert a named dataset unless its folder exists; it appears whole or not at all, also if two processes do so.

    Args:
        name: Name of an embedded or installed dataset.
        folder: Folder in which datasets with a name are kept.
    """
    path = folder / name
    if path.exists():
        return path
    from orchestrator.data.conversion.prepare import prepare  # and the readers of all sources, needed here only

    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{name}-", dir=folder) as scratch:
        prepare(name, None, f"{scratch}/{name}")
        try:
            Path(scratch, name).rename(path)
        except OSError:
            if not path.exists():
                raise
    return path


def _require_known(name: str | None) -> None:
    if name not in _NAMED:
        raise DataError(f"unknown dataset '{name or ''}'. {did_you_mean(name or '', list_datasets())}")
