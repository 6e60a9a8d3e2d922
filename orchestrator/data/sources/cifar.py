"""CIFAR-10 and CIFAR-100, from the python or the binary archive.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; formats as on its page.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.data.sources.source import ArraySource, Pixels, file_hash, locate, read_names, whole_records
from orchestrator.errors import DataError

__all__ = ["open_cifar10", "open_cifar100"]

Files = Mapping[str, tuple[str, ...]]

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_TRAIN_10 = tuple(f"data_batch_{number}" for number in range(1, 6))
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
}
"""What a pickle may name: the pieces that rebuild an array, under their old and their new address."""


@dataclass(frozen=True, kw_only=True)
class PythonCifar(ArraySource):
    """The archive of pickles.

    Args:
        files: Split to its files.
        labels_key: Where a file keeps its labels.
    """

    files: Files
    labels_key: str

    def load(self, split: str) -> tuple[Pixels, npt.NDArray[np.int32]]:
        """All images of a split."""
        batches = [_unpickle(self.root / name) for name in self.files[split]]
        images = np.concatenate([np.asarray(batch["data"], np.uint8) for batch in batches])
        labels = np.concatenate([np.asarray(batch[self.labels_key], np.int32) for batch in batches])
        return images.reshape(-1, *_SHAPE), labels


@dataclass(frozen=True, kw_only=True)
class BinaryCifar(ArraySource):
    """The archive of records: labels in one or two bytes, then the pixels.

    Args:
        files: Split to its files.
        label_bytes: 1 for CIFAR-10; 2 for CIFAR-100, whose second is the fine class.
    """

    files: Files
    label_bytes: int

    def load(self, split: str) -> tuple[Pixels, npt.NDArray[np.int32]]:
        """All images of a split."""
        size = self.label_bytes + _PIXELS
        records = np.concatenate([whole_records(self.root / name, size) for name in self.files[split]])
        labels = records[:, self.label_bytes - 1].astype(np.int32)
        return records[:, self.label_bytes :].reshape(-1, *_SHAPE), labels


def open_cifar10(root: Path) -> ArraySource:
    """CIFAR-10 beneath a folder.

    Raises:
        DataError: Neither of its forms is there, or a file is missing or cut.
    """
    if folder := locate(root, "data_batch_1"):
        files = {"train": _TRAIN_10, "test": ("test_batch",)}
        return _python(folder, files, "batches.meta", "label_names", "labels")
    if folder := locate(root, "data_batch_1.bin"):
        files = {"train": tuple(f"{name}.bin" for name in _TRAIN_10), "test": ("test_batch.bin",)}
        return _binary(folder, files, "batches.meta.txt", label_bytes=1)
    raise DataError(f"{root}: holds neither data_batch_1 nor data_batch_1.bin, as cifar-10-python and -binary do")


def open_cifar100(root: Path) -> ArraySource:
    """CIFAR-100 with its hundred fine classes, beneath a folder.

    Raises:
        DataError: Neither of its forms is there, or a file is missing or cut.
    """
    if folder := locate(root, "meta"):
        return _python(folder, {"train": ("train",), "test": ("test",)}, "meta", "fine_label_names", "fine_labels")
    if folder := locate(root, "fine_label_names.txt"):
        files = {"train": ("train.bin",), "test": ("test.bin",)}
        return _binary(folder, files, "fine_label_names.txt", label_bytes=2)
    raise DataError(f"{root}: holds neither meta nor fine_label_names.txt, as cifar-100-python and -binary do")


def _python(folder: Path, files: Files, meta: str, names_key: str, key: str) -> ArraySource:
    paths = _all_there(folder, files, meta)
    counts = {split: sum(len(_unpickle(folder / name)[key]) for name in names) for split, names in files.items()}
    return PythonCifar(
        root=folder,
        image_shape=_SHAPE,
        class_names=tuple(map(str, _unpickle(folder / meta)[names_key])),
        splits=counts,
        fingerprint=file_hash(paths),
        files=files,
        labels_key=key,
    )


def _binary(folder: Path, files: Files, names: str, *, label_bytes: int) -> ArraySource:
    paths = _all_there(folder, files, names)
    size = label_bytes + _PIXELS
    return BinaryCifar(
        root=folder,
        image_shape=_SHAPE,
        class_names=read_names(folder / names),
        splits={split: sum(len(whole_records(folder / name, size)) for name in f) for split, f in files.items()},
        fingerprint=file_hash(paths),
        files=files,
        label_bytes=label_bytes,
    )


def _all_there(folder: Path, files: Files, names: str) -> list[Path]:
    paths = [folder / name for split in files.values() for name in split] + [folder / names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{folder}: {', '.join(missing)} not there; unpack the archive again")
    return paths


class _PlainUnpickler(pickle.Unpickler):
    """Reads dictionaries, lists and arrays, and refuses whatever else a pickle may call."""

    def find_class(self, module: str, name: str) -> Any:
        """Only what rebuilds an array."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return _ALLOWED[module, name]


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = _PlainUnpickler(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: is no file of CIFAR's ({error}); fetch the archive again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: is no file of CIFAR's; fetch the archive again")
    return content
