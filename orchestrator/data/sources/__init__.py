"""Sources: readers of distributed datasets, by name.

A reader takes a folder; `open_source` unpacks an archive to a temporary folder first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from orchestrator.data.shown_names import one_line
from orchestrator.data.sources.archives import is_archive, unpack
from orchestrator.data.sources.cifar import open_cifar10, open_cifar100
from orchestrator.data.sources.digits import open_digits
from orchestrator.data.sources.image_files import open_folders, open_tiny_imagenet
from orchestrator.data.sources.imagenet import open_imagenet
from orchestrator.data.sources.mnist import (
    FASHION_MNIST_PACKAGE,
    FASHION_MNIST_PLACE,
    open_fashion_mnist,
    open_mnist,
)
from orchestrator.data.sources.scenes.coco import open_coco, open_coco_json
from orchestrator.data.sources.scenes.coco_with_maps import open_coco_stuffthings
from orchestrator.data.sources.scenes.digits_scenes import open_digits_scenes
from orchestrator.data.sources.scenes.mapped_images import open_ade20k, open_coco_stuff
from orchestrator.data.sources.scenes.voc import open_voc, open_voc_instances, open_voc_segmentation
from orchestrator.data.sources.source import UNLABELLED, Sample, Source
from orchestrator.data.sources.stl10 import open_stl10
from orchestrator.errors import DataError, did_you_mean

__all__ = ["EMBEDDED", "INSTALLED", "SOURCES", "UNLABELLED", "Sample", "Source", "installed_place", "open_source"]

SOURCES: Mapping[str, Callable[[Path], Source]] = MappingProxyType(
    {
        "ade20k": open_ade20k,
        "cifar10": open_cifar10,
        "cifar100": open_cifar100,
        "coco": open_coco,
        "coco-json": open_coco_json,
        "coco-stuff": open_coco_stuff,
        "coco-stuffthings": open_coco_stuffthings,
        "digits": open_digits,
        "digits-scenes": open_digits_scenes,
        "fashion-mnist": open_fashion_mnist,
        "folder": open_folders,
        "imagenet": open_imagenet,
        "mnist": open_mnist,
        "stl10": open_stl10,
        "tinyimagenet": open_tiny_imagenet,
        "voc": open_voc,
        "voc-instances": open_voc_instances,
        "voc-segmentation": open_voc_segmentation,
    }
)
"""Readers by name of the dataset."""

EMBEDDED = frozenset({"digits", "digits-scenes"})
"""Names of the datasets that need no download."""

INSTALLED: Mapping[str, tuple[Path, str]] = MappingProxyType(
    {"fashion-mnist": (FASHION_MNIST_PLACE, FASHION_MNIST_PACKAGE)}
)
"""Datasets that a package of the system brings: folder and package, by name."""


@contextmanager
def open_source(name: str, place: Path | None, *, scratch: Path | None = None) -> Iterator[Source]:
    """Open a dataset for reading while the block runs.

    Args:
        name: Name of a source of `SOURCES`.
        place: Folder or archive of the dataset; None for the embedded one, or the folder of a package of the system.
        scratch: Folder in which an archive is unpacked, reachable by all processes that read; None takes the
            system's own.

    Raises:
        DataError: The name is unknown, or the place does not hold this dataset.
    """
    if name not in SOURCES:
        raise DataError(f"unknown dataset '{name}'. {did_you_mean(name, list(SOURCES))}")
    if place is None and name in INSTALLED:
        yield _opened(name, installed_place(name))
    elif place is None:
        if name not in EMBEDDED:
            raise DataError(f"{name} is not embedded; say where it lies: --from DIR_OR_ARCHIVE")
        yield SOURCES[name](Path())
    elif place.is_dir():
        yield _opened(name, place)
    elif is_archive(place):
        if scratch is not None and not scratch.is_dir():
            raise DataError(f"{scratch}: no such folder to unpack {place.name} in; name one with --scratch")
        with TemporaryDirectory(prefix="spatialsweep-", dir=scratch) as folder:
            unpack(place, Path(folder))
            yield _opened(name, Path(folder), place)
    else:
        raise DataError(f"{place}: {'is no archive (tar or zip)' if place.exists() else 'no such folder or archive'}")


def installed_place(name: str) -> Path:
    """Return the folder of a dataset that a package of the system brings.

    Args:
        name: Name of the dataset, one of `INSTALLED`.

    Raises:
        DataError: The package is not installed.
    """
    place, package = INSTALLED[name]
    if not place.is_dir():
        raise DataError(
            f"{name} is not installed: {place} is not there. On Debian and Ubuntu: apt-get install -y {package}. "
            f"Elsewhere: spatialsweep data prepare {name} --from DIR --to URI, and dataset.uri: URI"
        )
    return place


def _opened(name: str, folder: Path, archive: Path | None = None) -> Source:
    """Open a source; errors name the archive of the user instead of the folder it was unpacked to."""
    try:
        return SOURCES[name](folder)
    except DataError as error:
        if archive is None:
            raise
        raise DataError(str(error).replace(str(folder), str(archive))) from None
    except OSError as error:
        raise DataError(f"{archive or folder}: cannot be read ({one_line(error)})") from None
