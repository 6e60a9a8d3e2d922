"""MNIST and other datasets in its idx files, plain or compressed: Fashion-MNIST, KMNIST.

Source: Y. LeCun, C. Cortes, C. Burges, The MNIST Database of Handwritten Digits, 1998; format as on its page.
H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, 2017 (arXiv 1708.07747), with the names of its classes.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orchestrator.data.shown_names import one_line
from orchestrator.data.sources.source import ArraySource, Pixels, file_hash, locate
from orchestrator.errors import DataError

__all__ = ["FASHION_MNIST_PACKAGE", "FASHION_MNIST_PLACE", "open_fashion_mnist", "open_mnist"]

FASHION_MNIST_PACKAGE = "dataset-fashion-mnist"
"""Package of Debian and Ubuntu with the files of Fashion-MNIST."""
FASHION_MNIST_PLACE = Path("/usr/share/datasets/fashion-mnist")
"""Folder of that package."""

_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_PREFIXES = {"train": "train", "test": "t10k"}
_UINT8 = 8
_MOST_BYTES = 2 << 30
_LARGEST_SIDE_PX = 4096


@dataclass(frozen=True, kw_only=True)
class Mnist(ArraySource):
    """MNIST in four idx files.

    Args:
        files: Names of the files of images and of labels of each split.
    """

    files: dict[str, tuple[str, str]]

    def load(self, split: str) -> tuple[Pixels, npt.NDArray[np.int32]]:
        """Return all images of a split, with one channel, and their labels."""
        images, labels = (_read_idx(self.root / name) for name in self.files[split])
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise DataError(f"{self.root}: {split} has images {images.shape} and labels {labels.shape}; fetch it again")
        return images[:, None], labels.astype(np.int32)


def open_mnist(root: Path) -> ArraySource:
    """Open the four files of MNIST in a folder, compressed or not.

    Raises:
        DataError: A file is missing or damaged.
    """
    folder = next(filter(None, (locate(root, name) for name in _spellings("train-images", 3))), None)
    if folder is None:
        raise DataError(f"{root}: holds no train-images-idx3-ubyte, nor the same with .gz")
    files = {
        split: (_find(folder, f"{p}-images", 3), _find(folder, f"{p}-labels", 1)) for split, p in _PREFIXES.items()
    }
    sizes = {split: _read_idx(folder / images).shape for split, (images, _) in files.items()}
    for split, shape in sizes.items():
        square = len(shape) == 3 and shape[1:] == sizes["train"][1:] and shape[1] == shape[2]
        if not square or not 0 < shape[1] <= _LARGEST_SIDE_PX:
            raise DataError(f"{folder}: the images of {split} are {shape}, not (N, side, side) of one size; fetch it")
    return Mnist(
        root=folder,
        image_shape=(1, *sizes["train"][1:]),
        class_names=tuple(map(str, range(10))),
        splits={split: shape[0] for split, shape in sizes.items()},
        fingerprint=file_hash(folder / name for pair in files.values() for name in pair),
        files=files,
    )


def open_fashion_mnist(root: Path) -> ArraySource:
    """Open Fashion-MNIST, which has the file names of MNIST, with the names of its classes.

    Raises:
        DataError: A file is missing or damaged.
    """
    return replace(open_mnist(root), class_names=_FASHION_CLASSES)


def _spellings(stem: str, dimensions: int) -> list[str]:
    return [f"{stem}{mark}idx{dimensions}-ubyte{end}" for mark in "-." for end in ("", ".gz")]


def _find(folder: Path, stem: str, dimensions: int) -> str:
    for name in _spellings(stem, dimensions):
        if (folder / name).is_file():
            return name
    raise DataError(f"{folder}: {stem}-idx{dimensions}-ubyte not there, nor with .gz; fetch it")


def _read_idx(path: Path) -> Pixels:
    """Return the bytes of an idx file in its shape; a compressed file is unpacked no further than announced."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            zeros, kind, dimensions = struct.unpack(">HBB", head) if len(head) == 4 else (1, 0, 0)
            sides = file.read(4 * dimensions)
            if zeros or kind != _UINT8 or not 1 <= dimensions <= 4 or len(sides) < 4 * dimensions:
                raise DataError(f"{path}: is no idx file of bytes; fetch it again")
            shape = struct.unpack(f">{dimensions}I", sides)
            announced = math.prod(shape)
            if announced > _MOST_BYTES:
                raise DataError(f"{path}: announces {shape}, more than {_MOST_BYTES} bytes; fetch it again")
            content = file.read(announced + 1)
    except DataError:
        raise
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        verb = "decompressed" if path.suffix == ".gz" else "read"
        raise DataError(f"{path}: cannot be {verb} ({one_line(error)}); fetch it again") from None
    if len(content) != announced:
        held = f"more than {announced}" if len(content) > announced else len(content)
        raise DataError(f"{path}: announces {shape} and holds {held} bytes; fetch it again")
    return np.frombuffer(content, np.uint8).reshape(shape)
