"""Image files in Arrow shards, read through memory maps.

Layout: each shard is an Arrow IPC file with the columns `image` (binary: a JPEG, PNG or WebP file) and `label` (int32).
An image is found by its position in the split; nothing is copied until it is decoded.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator.data.shard_files import ENCODED_SCHEMA, map_shard
from orchestrator.errors import DataError

__all__ = ["EncodedImages", "write_encoded_shard"]

_ROWS_PER_BATCH = 256


def write_encoded_shard(path: Path, rows: Iterable[tuple[bytes, int]]) -> int:
    """Write one shard atomically and return its number of images.

    Args:
        path: File to write; its folder is created.
        rows: Bytes of each image file, and its label.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    written = 0
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, ENCODED_SCHEMA) as writer:
        remaining = iter(rows)
        while batch := list(itertools.islice(remaining, _ROWS_PER_BATCH)):
            images, labels = zip(*batch, strict=True)
            columns = [pa.array(images, pa.binary()), pa.array(labels, pa.int32())]
            writer.write_batch(pa.record_batch(columns, schema=ENCODED_SCHEMA))
            written += len(batch)
    partial.replace(path)
    return written


class EncodedImages(Sequence[bytes]):
    """Image files of one split, in the order of its shards.

    Pickled as the list of its shards, so that it is cheap to send to other processes.

    Args:
        paths: Paths of the shards.

    Attributes:
        labels: Classes, int32, (N,).

    Raises:
        DataError: A shard is missing or not a shard of image files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._batches = [batch for path in self.paths for batch in _batches(path)]
        self._ends = np.cumsum([len(batch) for batch in self._batches], dtype=np.int64)
        self._images = [batch.column("image") for batch in self._batches]
        labels = [batch.column("label").to_numpy(zero_copy_only=True) for batch in self._batches]
        self.labels: npt.NDArray[np.int32] = np.concatenate(labels) if labels else np.empty(0, np.int32)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        """Return the bytes of one image file."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        batch = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[batch - 1]) if batch else 0
        image: bytes = self._images[batch][index - start].as_py()
        return image

    def __reduce__(self) -> tuple[type[EncodedImages], tuple[tuple[Path, ...]]]:
        return EncodedImages, (self.paths,)


def _batches(path: Path) -> list[pa.RecordBatch]:
    try:
        return map_shard(path, str(path), None)
    except DataError as error:
        raise DataError(f"{error}; prepare the dataset again") from None
