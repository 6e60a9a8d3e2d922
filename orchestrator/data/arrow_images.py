"""Small images in one Arrow file, read through a memory map.

Layout: one record batch per split, columns `image` (fixed-size list of uint8, channel-first) and `label` (int32). The
schema's metadata carries shape, classes, channel mean and deviation, and a hash of the content. Opening a file maps
it; the arrays returned are views, so the workers of a host share one copy in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from orchestrator.data.stacked_images import StackedImages
from orchestrator.errors import DataError, first_line

_META_KEY = b"spatialsweep"
_SCHEMA_VERSION = 1
_AGAIN = "prepare it again: once the file is removed, the next sweep does"


class _Meta(TypedDict):
    """What the schema's metadata says."""

    version: int
    shape: Annotated[tuple[int, ...], Field(min_length=3, max_length=3)]
    splits: tuple[str, ...]
    class_names: tuple[str, ...]
    mean: tuple[FiniteFloat, ...]
    std: tuple[FiniteFloat, ...]
    content_hash: str


_META: TypeAdapter[_Meta] = TypeAdapter(_Meta)


@dataclass(frozen=True)
class ImageSplit:
    """The images of one split.

    Args:
        images: uint8, (N, C, H, W); a read-only view of the file, or of several.
        labels: int32, (N,).
    """

    images: npt.NDArray[np.uint8] | StackedImages
    labels: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ArrowImages:
    """A dataset of small images, mapped into memory.

    Args:
        splits: Split name to images; at least `train` and `test`.
        class_names: One per label.
        mean: Per channel, of the training images scaled to [0, 1].
        std: Likewise, the population deviation.
        content_hash: Changes when any pixel or label does.
    """

    splits: Mapping[str, ImageSplit]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    content_hash: str


def write_images(path: Path, splits: Mapping[str, ImageSplit], class_names: tuple[str, ...]) -> None:
    """Writes a dataset atomically: a reader sees the whole file or none.

    Args:
        path: Target; its folder is created.
        splits: Split name to images, all of one shape; `train` gives mean and deviation.
        class_names: One per label.

    Raises:
        DataError: A split is empty, or its images or labels do not match the rest.
    """
    shape = splits["train"].images.shape[1:]
    for name, split in splits.items():
        if not len(split):
            raise DataError(f"{path}: split '{name}' is empty")
        if split.labels.min() < 0 or split.labels.max() >= len(class_names):
            raise DataError(f"{path}: split '{name}' has labels outside 0..{len(class_names) - 1}")
        if split.images.shape != (len(split), *shape):
            raise DataError(f"{path}: split '{name}' has images {split.images.shape}, not {(len(split), *shape)}")
    pixels = np.asarray(splits["train"].images).astype(np.float64) / 255
    meta = {
        "version": _SCHEMA_VERSION,
        "shape": list(shape),
        "splits": list(splits),
        "class_names": list(class_names),
        "mean": pixels.mean(axis=(0, 2, 3)).tolist(),
        "std": pixels.std(axis=(0, 2, 3)).tolist(),
        "content_hash": _hash(splits),
    }
    schema = pa.schema(
        [("image", pa.list_(pa.uint8(), int(np.prod(shape)))), ("label", pa.int32())],
        metadata={_META_KEY: json.dumps(meta).encode()},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for split in splits.values():
            writer.write_batch(_record_batch(split, schema))
    partial.replace(path)


def open_images(path: Path) -> ArrowImages:
    """Maps a dataset file, and compares its content with its hash.

    Raises:
        DataError: The file is missing or damaged, or was not written by `write_images`.
    """
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
    except (OSError, pa.ArrowException) as error:
        remedy = f"; {_AGAIN}" if path.is_file() else ""
        raise DataError(f"{path}: cannot be read as an Arrow file ({_fault(error)}){remedy}") from None
    raw = (reader.schema.metadata or {}).get(_META_KEY)
    if raw is None:
        raise DataError(f"{path}: is an Arrow file, but not a dataset of SpatialSweep's; {_AGAIN}")
    try:
        meta = _META.validate_json(raw)
        if meta["version"] != _SCHEMA_VERSION:
            raise DataError(f"{path}: has format {meta['version']}, this version reads {_SCHEMA_VERSION}; {_AGAIN}")
        splits = {name: _split(reader.get_batch(index), meta["shape"]) for index, name in enumerate(meta["splits"])}
        _refuse_odd(splits, meta)
    except (ValueError, KeyError, OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: is damaged ({_fault(error)}); {_AGAIN}") from None
    return ArrowImages(
        splits=splits,
        class_names=meta["class_names"],
        mean=meta["mean"],
        std=meta["std"],
        content_hash=meta["content_hash"],
    )


def _refuse_odd(splits: Mapping[str, ImageSplit], meta: _Meta) -> None:
    """Checks what a flipped bit can reach without making the file unreadable.

    Raises:
        ValueError: A label names no class, the channels do not match, or the content is not what was written.
    """
    channels = meta["shape"][0]
    if not len(meta["mean"]) == len(meta["std"]) == channels:
        raise ValueError(f"mean and deviation are not of {channels} channels")
    if not {"train", "test"} <= splits.keys():
        raise ValueError("the split train or test is missing")
    if _hash(splits) != meta["content_hash"]:
        raise ValueError("its images or labels are not those that were written")


def _fault(error: Exception) -> str:
    """Return what is wrong, in one line; of several faults in the description of a dataset the first."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return first_line(error)


def _record_batch(split: ImageSplit, schema: pa.Schema) -> pa.RecordBatch:
    flat = pa.array(np.asarray(split.images).reshape(-1), type=pa.uint8())
    column = pa.FixedSizeListArray.from_arrays(flat, schema.field("image").type.list_size)
    return pa.record_batch([column, pa.array(split.labels, type=pa.int32())], schema=schema)


def _split(batch: pa.RecordBatch, shape: tuple[int, ...]) -> ImageSplit:
    batch.validate(full=True)
    images = batch.column("image").flatten().to_numpy(zero_copy_only=True)
    labels = batch.column("label").to_numpy(zero_copy_only=True)
    return ImageSplit(images=images.reshape(len(labels), *shape), labels=labels)


def _hash(splits: Mapping[str, ImageSplit]) -> str:
    digest = hashlib.sha256()
    for name, split in splits.items():
        digest.update(name.encode())
        digest.update(np.asarray(split.images).tobytes())
        digest.update(split.labels.tobytes())
    return digest.hexdigest()[:16]
