"""STL10 from its binary archive: labelled training and test images, and 100,000 without labels.

Source: A. Coates, H. Lee, A. Ng, An Analysis of Single-Layer Networks in Unsupervised Feature Learning, 2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orchestrator.data.sources.source import (
    UNLABELLED,
    ArraySource,
    Pixels,
    file_hash,
    locate,
    read_names,
    whole_records,
)
from orchestrator.errors import DataError

__all__ = ["open_stl10"]

_SHAPE = (3, 96, 96)
_PIXELS = 3 * 96 * 96
_FILES = {"train": ("train_X.bin", "train_y.bin"), "test": ("test_X.bin", "test_y.bin")}
_UNLABELLED_FILE = "unlabeled_X.bin"


@dataclass(frozen=True, kw_only=True)
class Stl10(ArraySource):
    """STL10, unpacked. Pixels are stored column by column, labels count from 1."""

    def load(self, split: str) -> tuple[Pixels, npt.NDArray[np.int32]]:
        """Return all images of a split, mapped, and their labels."""
        if split == "unlabelled":
            images = whole_records(self.root / _UNLABELLED_FILE, _PIXELS)
            labels = np.full(len(images), UNLABELLED, np.int32)
        else:
            images_file, labels_file = _FILES[split]
            labels = np.fromfile(self.root / labels_file, np.uint8).astype(np.int32) - 1
            if len(labels) and labels.min() < 0:
                raise DataError(f"{self.root / labels_file}: has a label 0; its classes count from 1; fetch it again")
            images = whole_records(self.root / images_file, _PIXELS, len(labels))
        return images.reshape(-1, *_SHAPE).transpose(0, 1, 3, 2), labels


def open_stl10(root: Path) -> ArraySource:
    """Open STL10 in a folder; the images without labels may be missing.

    Raises:
        DataError: A file is missing or cut.
    """
    folder = locate(root, "train_X.bin")
    if folder is None:
        raise DataError(f"{root}: holds no train_X.bin, as the archive stl10_binary does")
    wanted = [*_FILES["train"], *_FILES["test"], "class_names.txt"]
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder}: {', '.join(missing)} not there; unpack the archive again")
    splits = {split: len(whole_records(folder / images, _PIXELS)) for split, (images, _) in _FILES.items()}
    if (folder / _UNLABELLED_FILE).is_file():
        wanted.append(_UNLABELLED_FILE)
        splits["unlabelled"] = len(whole_records(folder / _UNLABELLED_FILE, _PIXELS))
    return Stl10(
        root=folder,
        image_shape=_SHAPE,
        class_names=read_names(folder / "class_names.txt"),
        splits=splits,
        fingerprint=file_hash(folder / name for name in wanted),
    )
