"""Datasets by name or by URI: facts for validation, and their place on disk for training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING

from orchestrator.data.image_dataset import ImageDataset
from orchestrator.data.manifest import SCENES_VERSION, manifest_content, read_manifest
from orchestrator.data.prepared import check_manifest, open_prepared
from orchestrator.data.storage import open_folder
from orchestrator.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from orchestrator.data.scenes import SceneDataset

__all__ = [
    "ANNOTATED",
    "DatasetFacts",
    "convert_once",
    "current_hash",
    "dataset_facts",
    "list_datasets",
    "locate_dataset",
    "open_any_dataset",
    "open_dataset",
    "prepare_dataset",
    "scene_side",
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
        annotation: Kind of annotation that a task reads, such as `class_map`; empty for images with one label each.
        map_classes: Number of classes of the maps of annotated images; 0 for images without.
    """

    image_size: int
    in_chans: int
    num_classes: int
    train_images: int
    files: bool = False
    annotation: str = ""
    map_classes: int = 0


_NAMED: Mapping[str, DatasetFacts] = MappingProxyType(
    {
        "digits": DatasetFacts(image_size=8, in_chans=1, num_classes=10, train_images=1437),
        "fashion-mnist": DatasetFacts(image_size=28, in_chans=1, num_classes=10, train_images=60_000),
    }
)
"""Datasets by name that need no preparation: a sweep is validated before they are converted."""

_SCENES: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {"digits-scenes": {"class_map": 11, "boxes": 10, "masks": 10}}
)
"""Embedded datasets of annotated images, with the number of classes of each kind of annotation."""

_SCENE_SIDES = MappingProxyType({"digits-scenes": 64})
_SCENE_IMAGES = MappingProxyType({"digits-scenes": 1000})

ANNOTATED = frozenset(_SCENES)
"""Names of embedded datasets of annotated images, which `orchestrator.data.scenes` prepares and opens."""

CROP_PX = 224
"""Side of the square that image files are cropped to where the sweep does not say it, in pixels."""

SCENE_PX = 512
"""Side to which annotated images are resized where neither the sweep nor the dataset says it, in pixels."""

_EARLIER_HASHES = MappingProxyType({"5663ed2b4eac758a": "36706e9c749a0738"})
"""Hash of the digits while they were kept in one file (`digits.arrow`), and hash in their manifest: same content."""


def list_datasets(annotation: str = "") -> list[str]:
    """Return the names that `dataset.name` accepts.

    Args:
        annotation: Kind of annotation, such as `class_map`; empty for images with one label each.
    """
    return sorted(name for name, kinds in _SCENES.items() if annotation in kinds) if annotation else sorted(_NAMED)


def scene_side(name: str | None, image_size: int | None) -> int:
    """Return the side to which annotated images are resized, in pixels.

    Args:
        name: Name of the dataset; None for one with a URI.
        image_size: Setting `dataset.image_size`.
    """
    return image_size or _SCENE_SIDES.get(name or "", SCENE_PX)


def dataset_facts(name: str | None, uri: str | None, image_size: int | None, annotation: str = "") -> DatasetFacts:
    """Return the facts about the dataset of a sweep, which has a name or a URI.

    Args:
        name: Name of a dataset of `list_datasets(annotation)`.
        uri: Folder of a prepared dataset.
        image_size: Setting `dataset.image_size`: the side of the square that image files are cropped to, in pixels.
        annotation: Kind of annotation that the task reads, such as `class_map`; empty for images with one label each.

    Raises:
        DataError: The dataset is unknown, missing, incomplete or not suited for training.
    """
    if annotation:
        return _annotated_facts(name, uri, image_size, annotation)
    if uri is None:
        _require_known(name)
        return _NAMED[name or ""]
    crop_size = image_size or CROP_PX
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


def _annotated_facts(name: str | None, uri: str | None, image_size: int | None, annotation: str) -> DatasetFacts:
    """Return the facts about annotated images; images of every size are resized."""
    side = scene_side(name, image_size)
    if uri is None:
        if name not in list_datasets(annotation):
            raise DataError(f"unknown dataset '{name or ''}'. {did_you_mean(name or '', list_datasets(annotation))}")
        classes, images = _SCENES[name or ""][annotation], _SCENE_IMAGES[name or ""]
        map_classes = _SCENES[name or ""].get("class_map", 0)
    else:
        from orchestrator.data.scenes.manifest import check_scene_manifest, read_scene_manifest

        folder = open_folder(uri)
        manifest = read_scene_manifest(folder)
        check_scene_manifest(folder, manifest)
        if annotation not in manifest.annotations:
            found = ", ".join(manifest.annotations)
            raise DataError(f"{folder.shown}: its images have {found}, and the task needs {annotation}")
        classes = len(manifest.map_class_names if annotation == "class_map" else manifest.class_names)
        images, map_classes = manifest.splits["train"].images, len(manifest.map_class_names)
    return DatasetFacts(
        image_size=side,
        in_chans=3,
        num_classes=classes,
        train_images=images,
        files=True,
        annotation=annotation,
        map_classes=map_classes,
    )


def locate_dataset(name: str | None, uri: str | None, folder: Path) -> str:
    """Return the URI or absolute path of a dataset, checked; one with a name is converted first if need be.

    Args:
        name: Name of a dataset, of images with labels or of annotated ones.
        uri: Folder of a prepared dataset.
        folder: Folder in which datasets with a name are kept.

    Raises:
        DataError: The dataset is unknown, missing or damaged.
    """
    if uri is None and name in ANNOTATED:
        from orchestrator.data.scenes import prepare_scenes

        return str(prepare_scenes(name or "", folder))
    if uri is None:
        return str(prepare_dataset(name or "", folder))
    located = uri if "://" in uri else str(Path(uri).absolute())
    open_any_dataset(located)
    return located


def open_any_dataset(located: str | Path) -> ImageDataset | SceneDataset:
    """Open a prepared dataset, of images with one label each or of annotated ones.

    Args:
        located: Result of `locate_dataset`.

    Raises:
        DataError: It is missing or damaged.
    """
    version, content = manifest_content(open_folder(located))
    if version == SCENES_VERSION and content.get("kind") == "scenes":
        from orchestrator.data.scenes import open_scenes

        return open_scenes(located)
    return open_dataset(located)


def open_dataset(located: str | Path) -> ImageDataset:
    """Open a prepared dataset of images with one label each.

    Args:
        located: Result of `locate_dataset`.

    Raises:
        DataError: It is missing or damaged, or of annotated images.
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
