"""Conversion of one shard: a stretch of a split, from its source to an Arrow file, independent of other shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ConfigDict, TypeAdapter, ValidationError

from orchestrator.data.decoding import ImageError, decode_image
from orchestrator.data.encoded_images import write_encoded_shard
from orchestrator.data.manifest import STRICT, BadImage, ContentHash, Count, Shard, SplitName
from orchestrator.data.shard_files import pixel_schema
from orchestrator.data.shown_names import is_utf8, shown_name
from orchestrator.data.sources.source import UNLABELLED, Pixels, Sample, Shape, Source
from orchestrator.data.storage import PARTS, open_folder

__all__ = ["ShardRecord", "ShardTask", "Statistics", "convert_label_shard", "decode_pixels", "write_pixel_shard"]

_REDUCED_PX = 64


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """Task to convert one shard.

    Args:
        plan: Fingerprint of the source and of its division into shards.
        uri: Folder of the dataset.
        split: Name of the split.
        file: Name of the shard.
        start: Position of the first image.
        stop: Position after the last image.
    """

    plan: str
    uri: str
    split: str
    file: str
    start: int
    stop: int

    @property
    def record_file(self) -> str:
        """Path of the record of the finished shard, within the folder of the dataset."""
        return f"{PARTS}/{self.file.removesuffix('.arrow')}.json"


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """Record of a converted shard.

    Args:
        plan: Value of `plan` in the task.
        split: Name of the split.
        start: Position of the first image.
        shard: Entry of the shard in the manifest.
        per_class: Number of images or objects of each class; empty without labels.
        sums: Sum over images of the mean per channel of pixels scaled to [0, 1].
        square_sums: Sum over images of the mean per channel of squared pixels scaled to [0, 1].
        bad_images: Unreadable images, which were left out.
        pixels: Number of pixels of each class of the maps; empty without maps.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    plan: ContentHash
    split: SplitName
    start: Count
    shard: Shard
    per_class: tuple[Count, ...]
    sums: tuple[float, ...]
    square_sums: tuple[float, ...]
    bad_images: tuple[BadImage, ...]
    pixels: tuple[Count, ...] = ()

    def to_json(self) -> str:
        """Return the content of the record file, which is kept until the manifest is written."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> ShardRecord | None:
        """Return the record in a file; None if it is damaged, so that the shard is converted again."""
        try:
            return _RECORD.validate_json(text)
        except ValidationError:
            return None

    def belongs_to(self, task: ShardTask) -> bool:
        """Check whether the record is that of a task."""
        recorded = (self.plan, self.split, self.start, self.shard.file)
        counted = self.shard.images + len(self.bad_images)
        return recorded == (task.plan, task.split, task.start, task.file) and counted == task.stop - task.start


_RECORD = TypeAdapter(ShardRecord)


def convert_label_shard(source: Source, task: ShardTask) -> ShardRecord:
    """Write one shard of images with labels, and then its record."""
    folder = open_folder(task.uri)
    reader = _Reader(source)
    rows = reader.rows(source.read(task.split, task.start, task.stop))
    with folder.building(task.file) as partial:
        if source.image_shape is None:
            images = write_encoded_shard(partial, ((bytes(image), label) for image, label in rows))
        else:
            pixels = [(image, label) for image, label in rows if not isinstance(image, bytes)]
            images = write_pixel_shard(partial, pixels, source.image_shape)
        size = partial.stat().st_size
    record = ShardRecord(
        plan=task.plan,
        split=task.split,
        start=task.start,
        shard=Shard(task.file, images, size, reader.digest.hexdigest()[:16]),
        per_class=tuple(reader.per_class.tolist()) if reader.per_class.any() else (),
        sums=tuple(reader.statistics.sums.tolist()),
        square_sums=tuple(reader.statistics.square_sums.tolist()),
        bad_images=tuple(reader.bad_images),
    )
    folder.write(task.record_file, record.to_json().encode())
    return record


def write_pixel_shard(path: Path, rows: list[tuple[Pixels, int]], shape: Shape) -> int:
    """Write images of one shape as a single record batch, so that a reader maps them as one array.

    Args:
        path: File to write.
        rows: Pixels, uint8, (C, H, W), and label of each image.
        shape: C, H, W.
    """
    size = int(np.prod(shape))
    schema = pixel_schema(shape).with_metadata({b"shape": json.dumps(shape).encode()})
    flat = np.concatenate([image.reshape(-1) for image, _ in rows]) if rows else np.empty(0, np.uint8)
    images = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.uint8()), size)
    labels = pa.array([label for _, label in rows], pa.int32())
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch([images, labels], schema=schema))
    return len(rows)


class Statistics:
    """Sums over images for the mean and deviation of the pixels.

    Args:
        channels: Number of channels of an image.
    """

    def __init__(self, channels: int) -> None:
        self.sums, self.square_sums = np.zeros(channels), np.zeros(channels)

    def add(self, pixels: Pixels) -> None:
        """Add an image, uint8, (C, H, W)."""
        # float32 halves of a pixel's square would round; 64 bits hold the sums of any shard exactly enough
        scaled = pixels.reshape(len(pixels), -1).astype(np.float64) / 255
        self.sums += scaled.mean(axis=1)
        self.square_sums += np.square(scaled).mean(axis=1)


class _Reader:
    """Reader that checks each image and sums the statistics for the manifest."""

    def __init__(self, source: Source) -> None:
        self.shape = source.image_shape
        self.statistics = Statistics(self.shape[0] if self.shape else 3)
        self.per_class = np.zeros(len(source.class_names), np.int64)
        self.digest = hashlib.sha256()
        self.bad_images: list[BadImage] = []

    def rows(self, samples: Iterator[Sample]) -> Iterator[tuple[Pixels | bytes, int]]:
        """Yield the readable images and their labels."""
        for sample in samples:
            reason = sample.fault
            if reason is None and not is_utf8(sample.name):
                reason = "has a name that is not UTF-8; rename it"
            if reason is None and not UNLABELLED <= sample.label < len(self.per_class):
                reason = f"has label {sample.label}; there are {len(self.per_class)} classes"
            if reason is None:
                try:
                    image, pixels = self._read(sample)
                except ImageError as error:
                    reason = str(error)
            if reason is not None:
                self.bad_images.append(BadImage(shown_name(sample.name), reason))
                continue
            self._count(image, pixels, sample.label)
            yield image, sample.label

    def _read(self, sample: Sample) -> tuple[Pixels | bytes, Pixels]:
        """Return the content to store of an image, and pixels for the statistics."""
        if isinstance(sample.image, bytes) and self.shape is None:
            return sample.image, decode_pixels(sample.image, reduced_px=_REDUCED_PX)
        pixels = decode_pixels(sample.image) if isinstance(sample.image, bytes) else np.ascontiguousarray(sample.image)
        if pixels.shape != self.shape:
            raise ImageError(f"has the shape {pixels.shape}, not {self.shape} as the others")
        return pixels, pixels

    def _count(self, image: Pixels | bytes, pixels: Pixels, label: int) -> None:
        self.statistics.add(pixels)
        if label != UNLABELLED:
            self.per_class[label] += 1
        content = image if isinstance(image, bytes) else image.tobytes()
        self.digest.update(f"{label} {len(content)}\n".encode())
        self.digest.update(content)


def decode_pixels(content: bytes, *, reduced_px: int | None = None) -> Pixels:
    """Decode an image file to RGB pixels (3, H, W); a reduced size suffices for statistics."""
    pixels: npt.NDArray[np.uint8] = np.asarray(decode_image(content, reduced_px=reduced_px)).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels)
