"""Reading of shards: only rows of the expected form are returned, for any content of the file.

Arrow checks the frame of a file when it is opened, but its offsets and lengths only on request; values read through
unchecked offsets would come from anywhere in memory.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator.data.shown_names import one_line, shown_name
from orchestrator.errors import DataError

__all__ = [
    "ARROW_FAULTS",
    "ENCODED_SCHEMA",
    "checked_batches",
    "checked_columns",
    "labels_of",
    "map_shard",
    "pixel_schema",
    "rows_hash",
]

ENCODED_SCHEMA = pa.schema([("image", pa.binary()), ("label", pa.int32())])
ARROW_FAULTS = (OSError, pa.ArrowException, ValueError, OverflowError, MemoryError)
"""Exceptions of Arrow for a file that is missing, cut, or not an Arrow file."""


def pixel_schema(shape: tuple[int, ...]) -> pa.Schema:
    """Return the columns of a shard of pixels.

    Args:
        shape: C, H, W.
    """
    return pa.schema([("image", pa.list_(pa.uint8(), math.prod(shape))), ("label", pa.int32())])


def map_shard(path: Path, where: str, shape: tuple[int, ...] | None) -> list[pa.RecordBatch]:
    """Map a local shard without reading its images.

    Args:
        path: Path of the shard.
        where: Name of the shard in errors.
        shape: C, H, W of pixels; None for image files.

    Raises:
        DataError: It is missing, or not a shard of this form.
    """
    try:
        return checked_batches(pa.memory_map(str(path), "r"), where, shape)
    except OSError as error:
        raise _unreadable(where, error) from None


def checked_batches(file: pa.NativeFile, where: str, shape: tuple[int, ...] | None) -> list[pa.RecordBatch]:
    """Return the batches of an open shard, after a check of all offsets and lengths.

    Args:
        file: Open file of the shard.
        where: Name of the shard in errors.
        shape: C, H, W of pixels; None for image files.

    Raises:
        DataError: It is not a shard of this form.
    """
    expected = ENCODED_SCHEMA if shape is None else pixel_schema(shape)
    announced = None if shape is None else " x ".join(map(str, shape))
    batches = checked_columns(file, where, expected, "image files" if shape is None else "pixels", announced)
    if shape is not None and any(batch.column("image").flatten().null_count for batch in batches):
        raise DataError(f"{where}: has pixels that are missing (null)")
    return batches


def checked_columns(
    file: pa.NativeFile, where: str, expected: pa.Schema, kind: str, announced: str | None = None
) -> list[pa.RecordBatch]:
    """Return the batches of an open shard with known columns, after a check of all offsets and lengths.

    Args:
        file: Open file of the shard.
        where: Name of the shard in errors.
        expected: Columns of the shard.
        kind: Content of the shard, for errors.
        announced: Shape of the pixels of an image, for errors; None for other columns.

    Raises:
        DataError: It is not a shard of this form.
    """
    try:
        reader = pa.ipc.open_file(file)
        if not reader.schema.equals(expected):
            raise DataError(f"{where}: {_difference(reader.schema, expected, kind, announced)}")
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate(full=True)
        held, size = sum(batch.nbytes for batch in batches), file.size()
    except DataError:
        raise
    except ARROW_FAULTS as error:
        raise _unreadable(where, error) from None
    if any(column.null_count for batch in batches for column in batch.columns):
        raise DataError(f"{where}: has images or labels that are missing (null)")
    if held > size:
        raise DataError(f"{where}: is compressed; shards of images are not")
    return batches


def labels_of(batches: list[pa.RecordBatch]) -> npt.NDArray[np.int32]:
    """Return the labels of a shard, a view where it has one batch."""
    labels = [batch.column("label").to_numpy(zero_copy_only=True) for batch in batches]
    return labels[0] if len(labels) == 1 else np.concatenate([np.empty(0, np.int32), *labels])


def rows_hash(batches: list[pa.RecordBatch]) -> str:
    """Return the hash of all images and labels of a shard in order, as recorded in the manifest."""
    digest = hashlib.sha256()
    for batch in batches:
        images, labels = batch.column("image"), batch.column("label").to_numpy(zero_copy_only=True)
        for image, label in zip(images, labels, strict=True):
            content = image.as_buffer() if pa.types.is_binary(images.type) else image.values.to_numpy().tobytes()
            digest.update(f"{label} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()[:16]


def _difference(schema: pa.Schema, expected: pa.Schema, kind: str, announced: str | None) -> str:
    """Return the difference between the columns of a file and those of a shard, in words."""
    if announced is not None and schema.names == expected.names:
        size, wanted = (getattr(each.field("image").type, "list_size", None) for each in (schema, expected))
        if size is not None and size != wanted:
            return f"has images of {size} values, not {announced} as announced"
    columns = ", ".join(f"{field.name}: {field.type}" for field in list(schema)[:4])
    return f"has columns {shown_name(columns)}; it is no shard of {kind}"


def _unreadable(where: str, error: BaseException) -> DataError:
    return DataError(f"{where}: cannot be read as a shard of images ({one_line(error)})")
