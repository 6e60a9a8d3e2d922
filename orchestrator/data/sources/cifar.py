"""CIFAR-10 and CIFAR-100, from the python or the binary archive.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; formats as on its page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.data.sources.plain_pickles import PickleFault, read_plain_pickle
from orchestrator.data.sources.source import (
    ArraySource,
    Pixels,
    checked_names,
    file_hash,
    locate,
    read_names,
    whole_records,
)
from orchestrator.errors import DataError

__all__ = ["open_cifar10", "open_cifar100"]

Files = Mapping[str, tuple[str, ...]]

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_TRAIN_10 = tuple(f"data_batch_{number}" for number in range(1, 6))


@dataclass(frozen=True, kw_only=True)
class PythonCifar(ArraySource):
    """CIFAR in files of pickles.

    Args:
        files: Names of the files of each split.
        labels_key: Key of the labels in a file.
    """

    files: Files
    labels_key: str

    def load(self, split: str) -> tuple[Pixels, npt.NDArray[np.int32]]:
        """Return all images of a split and their labels."""
        return _load_files(self.root, self.files[split], self.labels_key, self.fingerprint)


@dataclass(frozen=True, kw_only=True)
class BinaryCifar(ArraySource):
    """CIFAR in files of records: one or two bytes of labels, then the pixels.

    Args:
        files: Names of the files of each split.
        label_bytes: Number of label bytes: 1 for CIFAR-10; 2 for CIFAR-100, of which the second is the fine class.
    """

    files: Files
    label_bytes: int

    def load(self, split: str) -> tuple[Pixels, npt.NDArray[np.int32]]:
        """Return all images of a split and their labels."""
        size = self.label_bytes + _PIXELS
        records = np.concatenate([whole_records(self.root / name, size) for name in self.files[split]])
        labels = records[:, self.label_bytes - 1].astype(np.int32)
        return records[:, self.label_bytes :].reshape(-1, *_SHAPE), labels


def open_cifar10(root: Path) -> ArraySource:
    """Open CIFAR-10 in a folder.

    Raises:
        DataError: Neither of its forms is present, or a file is missing or cut.
    """
    if folder := locate(root, "data_batch_1"):
        files = {"train": _TRAIN_10, "test": ("test_batch",)}
        return _python(folder, files, "batches.meta", "label_names", "labels")
    if folder := locate(root, "data_batch_1.bin"):
        files = {"train": tuple(f"{name}.bin" for name in _TRAIN_10), "test": ("test_batch.bin",)}
        return _binary(folder, files, "batches.meta.txt", label_bytes=1)
    raise DataError(f"{root}: holds neither data_batch_1 nor data_batch_1.bin, as cifar-10-python and -binary do")


def open_cifar100(root: Path) -> ArraySource:
    """Open CIFAR-100 with its hundred fine classes in a folder.

    Raises:
        DataError: Neither of its forms is present, or a file is missing or cut.
    """
    if folder := locate(root, "meta"):
        return _python(folder, {"train": ("train",), "test": ("test",)}, "meta", "fine_label_names", "fine_labels")
    if folder := locate(root, "fine_label_names.txt"):
        files = {"train": ("train.bin",), "test": ("test.bin",)}
        return _binary(folder, files, "fine_label_names.txt", label_bytes=2)
    raise DataError(f"{root}: holds neither meta nor fine_label_names.txt, as cifar-100-python and -binary do")


def _python(folder: Path, files: Files, meta: str, names_key: str, key: str) -> ArraySource:
    paths = _existing_paths(folder, files, meta)
    counts = {split: sum(len(_read_batch(folder / name, key)[1]) for name in names) for split, names in files.items()}
    return PythonCifar(
        root=folder,
        image_shape=_SHAPE,
        class_names=_read_class_names(folder / meta, names_key),
        splits=counts,
        fingerprint=file_hash(paths),
        files=files,
        labels_key=key,
    )


def _binary(folder: Path, files: Files, names: str, *, label_bytes: int) -> ArraySource:
    paths = _existing_paths(folder, files, names)
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


def _existing_paths(folder: Path, files: Files, names: str) -> list[Path]:
    paths = [folder / name for split in files.values() for name in split] + [folder / names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{folder}: {', '.join(missing)} not there; unpack the archive again")
    return paths


@lru_cache(maxsize=1)  # the shards of a split are read one after another
def _load_files(
    root: Path, names: tuple[str, ...], labels_key: str, _fingerprint: str
) -> tuple[Pixels, npt.NDArray[np.int32]]:
    batches = [_read_batch(root / name, labels_key) for name in names]
    images = [batch for batch, _ in batches]
    whole = images[0] if len(images) == 1 else np.concatenate(images)
    return whole, np.concatenate([labels for _, labels in batches])


def _read_batch(path: Path, labels_key: str) -> tuple[Pixels, npt.NDArray[np.int32]]:
    """Return images (N, 3, 32, 32) and labels (N,) of one file."""
    content = _read(path, "data", labels_key)
    images, labels = content["data"], content[labels_key]
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        raise _damaged(path, f"its data is {_kind(images)}, not an array of unsigned bytes")
    if images.shape[1:] not in ((_PIXELS,), _SHAPE):
        raise _damaged(path, f"its data has the shape {images.shape}, not (N, {_PIXELS})")
    given = labels
    if isinstance(labels, list) and all(type(label) is int and abs(label) < 1 << 31 for label in labels):
        labels = np.array(labels, np.int32)
    if not isinstance(labels, np.ndarray) or labels.shape != images.shape[:1]:
        raise _damaged(path, f"its {labels_key} is {_kind(given)}, not {len(images)} whole numbers")
    if len(labels) and not 0 <= labels.min() <= labels.max() < 1 << 31:
        raise _damaged(path, f"its {labels_key} reaches from {labels.min()} to {labels.max()}")
    return images.reshape(-1, *_SHAPE), labels.astype(np.int32)


def _read_class_names(path: Path, key: str) -> tuple[str, ...]:
    names = _read(path, key)[key]
    if not isinstance(names, list) or not names or not all(isinstance(name, str | bytes) and name for name in names):
        raise _damaged(path, f"its {key} is {_kind(names)}, not a list of names")
    texts = [name.decode("latin1") if isinstance(name, bytes) else name for name in names]
    return checked_names(path, texts)


def _read(path: Path, *keys: str) -> dict[str, Any]:
    """Return the dictionary in a file; keys that a later Python wrote as bytes become texts."""
    try:
        content = read_plain_pickle(path)
    except (PickleFault, OSError) as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(content, dict):
        raise _damaged(path, f"it holds {_kind(content)}, not a dictionary")
    content = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    for key in keys:
        if key not in content:
            raise _damaged(path, f"it has no {key}")
    return content


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of the shape {value.shape}"
    return f"a {type(value).__name__}{f' of {len(value)}' if isinstance(value, list | dict | tuple) else ''}"


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: is no file of CIFAR's ({reason}); fetch the archive again")
