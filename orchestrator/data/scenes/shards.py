"""Shards of annotated images: image file, annotations and map of classes of each image, in Arrow files.

Columns: `image` (a file), `file` (its name), `image_id`, `width`, `height`; with boxes `boxes`, `labels`, `iscrowd` and
`area`, lists of one length in each row; with masks `masks` (COCO's compressed run lengths); with maps `class_map`
(a grey PNG or PGM file).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from orchestrator.data.scenes.target import Annotation, SceneTarget
from orchestrator.data.shard_files import checked_columns
from orchestrator.errors import DataError

__all__ = [
    "OBJECT_COLUMNS",
    "SceneRow",
    "checked_scene_batches",
    "map_scene_shard",
    "scene_rows_hash",
    "scene_schema",
    "write_scene_shard",
]

SceneRow = tuple[bytes, str, SceneTarget, bytes | None]
"""Image file, its name, its annotations, and the file of its map of classes."""

OBJECT_COLUMNS = ("boxes", "labels", "iscrowd", "area")
_BATCH_ROWS = 256
_BATCH_BYTES = 64 << 20


def scene_schema(annotations: Sequence[Annotation]) -> pa.Schema:
    """Return the columns of a shard.

    Args:
        annotations: Kinds of annotations of the dataset.
    """
    fields: list[tuple[str, pa.DataType]] = [
        ("image", pa.binary()),
        ("file", pa.string()),
        ("image_id", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
    if "boxes" in annotations:
        fields += [
            ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
            ("labels", pa.list_(pa.int32())),
            ("iscrowd", pa.list_(pa.uint8())),
            ("area", pa.list_(pa.float32())),
        ]
    if "masks" in annotations:
        fields.append(("masks", pa.list_(pa.binary())))
    if "class_map" in annotations:
        fields.append(("class_map", pa.binary()))
    return pa.schema([pa.field(name, kind) for name, kind in fields])


def write_scene_shard(path: Path, rows: Iterable[SceneRow], annotations: Sequence[Annotation]) -> tuple[int, str]:
    """Write one shard; return its number of images and the hash of its rows.

    Args:
        path: File to write.
        rows: Images with their annotations.
        annotations: Kinds of annotations of the dataset.
    """
    schema = scene_schema(annotations)
    digest, written = hashlib.sha256(), 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for group in _groups(rows):
            batch = _batch(group, schema)
            _add_rows(digest, batch)
            writer.write_batch(batch)
            written += len(group)
    return written, digest.hexdigest()[:16]


def map_scene_shard(path: Path, where: str, annotations: Sequence[Annotation]) -> list[pa.RecordBatch]:
    """Map a local shard without reading its images.

    Args:
        path: Path of the shard.
        where: Name of the shard in errors.
        annotations: Kinds of annotations of the dataset.

    Raises:
        DataError: It is missing, or not a shard of this form.
    """
    try:
        file = pa.memory_map(str(path), "r")
    except OSError as error:
        raise DataError(f"{where}: cannot be opened ({error.strerror or 'no such file'})") from None
    return checked_scene_batches(file, where, annotations)


def checked_scene_batches(file: pa.NativeFile, where: str, annotations: Sequence[Annotation]) -> list[pa.RecordBatch]:
    """Return the batches of an open shard, after a check of all offsets, lengths and sizes.

    Args:
        file: Open file of the shard.
        where: Name of the shard in errors.
        annotations: Kinds of annotations of the dataset.

    Raises:
        DataError: It is not a shard of this form.
    """
    batches = checked_columns(file, where, scene_schema(annotations), "annotated images")
    lists = [name for name in (*OBJECT_COLUMNS, "masks") if batches and name in batches[0].schema.names]
    for batch in batches:
        if any(_has_nulls(batch.column(name)) for name in lists):
            raise DataError(f"{where}: has boxes, labels or masks that are missing (null)")
        lengths = [_lengths(batch, name) for name in lists]
        if any(not np.array_equal(each, lengths[0]) for each in lengths):
            raise DataError(f"{where}: has rows whose boxes, labels and masks differ in number")
    return batches


def scene_rows_hash(batches: Iterable[pa.RecordBatch]) -> str:
    """Return the hash of all images and annotations of a shard in order, as recorded in the manifest."""
    digest = hashlib.sha256()
    for batch in batches:
        _add_rows(digest, batch)
    return digest.hexdigest()[:16]


def _add_rows(digest: hashlib._Hash, batch: pa.RecordBatch) -> None:
    """Add the content of each row, each value with its length, so that no two contents have the same bytes."""
    columns = [batch.column(name) for name in batch.schema.names]
    for row in range(len(batch)):
        for column in columns:
            for value in _values(column[row]):
                digest.update(struct.pack("<q", len(value)))
                digest.update(value)


def _values(value: pa.Scalar) -> Iterator[bytes | memoryview]:
    """Yield the bytes of one value; a list of binaries as its length and its values."""
    if pa.types.is_binary(value.type) or pa.types.is_string(value.type):
        yield memoryview(value.as_buffer())
    elif not pa.types.is_list(value.type):
        yield struct.pack("<q", value.as_py())
    elif pa.types.is_binary(value.type.value_type):
        yield struct.pack("<q", len(value))
        yield from value.as_py()
    else:
        flat = value.values.flatten() if pa.types.is_fixed_size_list(value.values.type) else value.values
        yield flat.to_numpy(zero_copy_only=False).tobytes()


def _groups(rows: Iterable[SceneRow]) -> Iterator[list[SceneRow]]:
    """Yield rows in groups of bounded number and size."""
    group: list[SceneRow] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row[0]) + len(row[3] or b"")
        if len(group) == _BATCH_ROWS or size >= _BATCH_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _batch(group: Sequence[SceneRow], schema: pa.Schema) -> pa.RecordBatch:
    targets = [target for _, _, target, _ in group]
    offsets = pa.array(np.cumsum([0, *(len(target.labels) for target in targets)]), pa.int32())

    def joined(values: Sequence[np.ndarray], kind: pa.DataType) -> pa.Array:
        return pa.array(np.concatenate(values), kind)

    columns: dict[str, pa.Array] = {
        "image": pa.array([image for image, _, _, _ in group], pa.binary()),
        "file": pa.array([name for _, name, _, _ in group], pa.string()),
        "image_id": pa.array([target.image_id for target in targets], pa.int64()),
        "width": pa.array([target.width for target in targets], pa.int32()),
        "height": pa.array([target.height for target in targets], pa.int32()),
    }
    if "boxes" in schema.names:
        corners = joined([target.boxes.reshape(-1) for target in targets], pa.float32())
        columns["boxes"] = pa.ListArray.from_arrays(offsets, pa.FixedSizeListArray.from_arrays(corners, 4))
        for name, kind in (("labels", pa.int32()), ("iscrowd", pa.uint8()), ("area", pa.float32())):
            values = joined([getattr(target, name) for target in targets], kind)
            columns[name] = pa.ListArray.from_arrays(offsets, values)
    if "masks" in schema.names:
        masks = pa.array([mask for target in targets for mask in target.masks or ()], pa.binary())
        columns["masks"] = pa.ListArray.from_arrays(offsets, masks)
    if "class_map" in schema.names:
        columns["class_map"] = pa.array([class_map for _, _, _, class_map in group], pa.binary())
    arrays = [columns[field.name].cast(field.type) for field in schema]
    return pa.record_batch(arrays, schema=schema)


def _has_nulls(column: pa.ListArray) -> bool:
    values = column.flatten()
    nested = pa.types.is_fixed_size_list(values.type) and values.flatten().null_count
    return bool(values.null_count or nested)


def _lengths(batch: pa.RecordBatch, name: str) -> np.ndarray:
    lengths: np.ndarray = batch.column(name).value_lengths().to_numpy(zero_copy_only=False)
    return lengths
