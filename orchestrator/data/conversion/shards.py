"""Conversion of one shard: a stretch of a split, from its source to an Arrow file. Shards do not know of each other."""

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

__all__ = ["ShardRecord", "ShardTask", "convert_shard", "write_pixel_shard"]

_REDUCED_PX = 64


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """What to convert, and where to.

    Args:
        plan: Fingerprint of the source and of how it is cut.
        uri: The dataset.
        split: Its split.
        file: Name of the shard.
        start: First image.
        stop: One past the last.
    """

    plan: str
    uri: str
    split: str
    file: str
    start: int
    stop: int

    @property
    def record_file(self) -> str:
        """Where the record of the finished shard lies."""
        return f"{PARTS}/{self.file.removesuffix('.arrow')}.json"


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What became of a task.

    Args:
        plan: As in the task, like the next two.
        split: As above.
        start: As above.
        shard: The file.
        per_class: Images of each class; empty without labels.
        sums: Per channel, the sum over images of the mean of their pixels, scaled to [0, 1].
        square_sums: Likewise, of the mean of the squares.
        bad_images: What could not be read and was left out.
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

    def to_json(self) -> str:
        """As kept until the manifest is written."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> ShardRecord | None:
        """Return what `to_json` wrote; None where the text is damaged, so that the shard is converted again."""
        try:
            return _RECORD.validate_json(text)
        except ValidationError:
            return None

    def belongs_to(self, task: ShardTask) -> bool:
        """Whether it tells of this very task."""
        told = (self.plan, self.split, self.start, self.shard.file)
        counted = self.shard.images + len(self.bad_images)
        return told == (task.plan, task.split, task.start, task.file) and counted == task.stop - task.start


_RECORD = TypeAdapter(ShardRecord)


def convert_shard(source: Source, task: ShardTask) -> ShardRecord:
    """Writes one shard and, once it is whole, its record."""
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
        sums=tuple(reader.sums.tolist()),
        square_sums=tuple(reader.square_sums.tolist()),
        bad_images=tuple(reader.bad_images),
    )
    folder.write(task.record_file, record.to_json().encode())
    return record


def write_pixel_shard(path: Path, rows: list[tuple[Pixels, int]], shape: Shape) -> int:
    """Writes images of one shape as a single record batch, so that a reader maps them as one array.

    Args:
        path: Target.
        rows: uint8 (C, H, W) and label of each.
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


class _Reader:
    """Checks each image on its way, and sums up what the manifest will say of them."""

    def __init__(self, source: Source) -> None:
        self.shape = source.image_shape
        channels = self.shape[0] if self.shape else 3
        self.sums, self.square_sums = np.zeros(channels), np.zeros(channels)
        self.per_class = np.zeros(len(source.class_names), np.int64)
        self.digest = hashlib.sha256()
        self.bad_images: list[BadImage] = []

    def rows(self, samples: Iterator[Sample]) -> Iterator[tuple[Pixels | bytes, int]]:
        """The readable images and their labels."""
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
        """What is stored of an image, and pixels to take statistics of."""
        if isinstance(sample.image, bytes) and self.shape is None:
            return sample.image, _decode(sample.image, reduced_px=_REDUCED_PX)
        pixels = _decode(sample.image) if isinstance(sample.image, bytes) else np.ascontiguousarray(sample.image)
        if pixels.shape != self.shape:
            raise ImageError(f"has the shape {pixels.shape}, not {self.shape} as the others")
        return pixels, pixels

    def _count(self, image: Pixels | bytes, pixels: Pixels, label: int) -> None:
        # float32 halves of a pixel's square would round; 64 bits hold the sums of any shard exactly enough
        scaled = pixels.reshape(len(pixels), -1).astype(np.float64) / 255
        self.sums += scaled.mean(axis=1)
        self.square_sums += np.square(scaled).mean(axis=1)
        if label != UNLABELLED:
            self.per_class[label] += 1
        content = image if isinstance(image, bytes) else image.tobytes()
        self.digest.update(f"{label} {len(content)}\n".encode())
        self.digest.update(content)


def _decode(content: bytes, *, reduced_px: int | None = None) -> Pixels:
    """RGB pixels (3, H, W) of an image file; reduced ones are enough for statistics."""
    pixels: npt.NDArray[np.uint8] = np.asarray(decode_image(content, reduced_px=reduced_px)).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels)
