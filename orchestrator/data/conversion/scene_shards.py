"""Conversion of one shard of annotated images, and the manifest of all."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from orchestrator.data.conversion.shards import ShardRecord, ShardTask, Statistics, decode_pixels
from orchestrator.data.decoding import ImageError, image_size
from orchestrator.data.manifest import BadImage, Shard
from orchestrator.data.scenes.class_maps import class_pixels, encode_class_map, encode_grey
from orchestrator.data.scenes.manifest import SceneManifest, SceneSplit, scenes_hash
from orchestrator.data.scenes.masks import MOST_MASK_BYTES
from orchestrator.data.scenes.shards import SceneRow, write_scene_shard
from orchestrator.data.scenes.target import SceneTarget
from orchestrator.data.shown_names import is_utf8, shown_name
from orchestrator.data.sources.scenes.scene_source import SceneSample, SceneSource
from orchestrator.data.storage import open_folder

__all__ = ["convert_scene_shard", "scene_manifest"]

_REDUCED_PX = 64


def convert_scene_shard(source: SceneSource, task: ShardTask) -> ShardRecord:
    """Write one shard, and then its record."""
    folder = open_folder(task.uri)
    reader = _SceneReader(source)
    with folder.building(task.file) as partial:
        rows = reader.rows(source.read(task.split, task.start, task.stop))
        images, content_hash = write_scene_shard(partial, rows, source.annotations)
        size = partial.stat().st_size
    record = ShardRecord(
        plan=task.plan,
        split=task.split,
        start=task.start,
        shard=Shard(task.file, images, size, content_hash),
        per_class=tuple(reader.objects.tolist()),
        pixels=tuple(reader.pixels.tolist()),
        sums=tuple(reader.statistics.sums.tolist()),
        square_sums=tuple(reader.statistics.square_sums.tolist()),
        bad_images=tuple(reader.bad_images),
    )
    folder.write(task.record_file, record.to_json().encode())
    return record


def scene_manifest(
    name: str,
    source: SceneSource,
    records: Sequence[ShardRecord],
    origin: dict[str, str],
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
) -> SceneManifest:
    """Return the manifest of a converted dataset.

    Args:
        name: Name of the dataset.
        source: Its source.
        records: Records of all shards in order.
        origin: Origin of the images.
        statistics: Mean and deviation per channel of the training images.
    """
    splits = {}
    for split, group in itertools.groupby(records, key=lambda record: record.split):
        parts = list(group)
        splits[split] = SceneSplit(
            images=sum(part.shard.images for part in parts),
            objects=_summed([part.per_class for part in parts]),
            pixels=_summed([part.pixels for part in parts]),
            shards=tuple(part.shard for part in parts),
        )
    mean, std = statistics
    return SceneManifest(
        name=name,
        kind="scenes",
        annotations=source.annotations,
        class_names=source.class_names,
        map_class_names=source.map_class_names,
        splits=splits,
        mean=mean,
        std=std,
        content_hash=scenes_hash(source.annotations, source.class_names, source.map_class_names, splits),
        source=origin,
        bad_images=tuple(bad for record in records for bad in record.bad_images),
        bad_annotations=source.faulty_annotations,
    )


def _summed(counts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*counts, strict=True)))


class _SceneReader:
    """Reader that checks each image against its annotations and sums the statistics for the manifest."""

    def __init__(self, source: SceneSource) -> None:
        self._source = source
        self.statistics = Statistics(3)
        self.objects = np.zeros(len(source.class_names), np.int64)
        self.pixels = np.zeros(len(source.map_class_names), np.int64)
        self.bad_images: list[BadImage] = []

    def rows(self, samples: Iterator[SceneSample]) -> Iterator[SceneRow]:
        """Yield the readable images with their annotations."""
        for sample in samples:
            try:
                yield self._row(sample)
            except ImageError as error:
                self.bad_images.append(BadImage(shown_name(sample.name), str(error)))

    def _row(self, sample: SceneSample) -> SceneRow:
        if sample.fault is not None:
            raise ImageError(sample.fault)
        if not is_utf8(sample.name):
            raise ImageError("has a name that is not UTF-8; rename it")
        image, target = sample.image, sample.target
        assert isinstance(image, bytes)
        assert target is not None
        width, height = image_size(io.BytesIO(image))
        if (width, height) != (target.width, target.height):
            raise ImageError(f"has {width} x {height} px, its annotations are for {target.width} x {target.height} px")
        if target.masks is not None and len(target.masks) * width * height > MOST_MASK_BYTES:
            raise ImageError(
                f"has {len(target.masks)} masks, which take more than {MOST_MASK_BYTES >> 30} GiB together"
            )
        pixels = decode_pixels(image, reduced_px=_REDUCED_PX)
        class_map = self._class_map(target)
        self.statistics.add(pixels)
        self.objects += np.bincount(target.labels, minlength=len(self.objects) + 1)[1:]
        return image, sample.name, target, class_map

    def _class_map(self, target: SceneTarget) -> bytes | None:
        if target.class_map is None:
            return None
        if target.class_map.shape != (target.height, target.width):
            height, width = target.class_map.shape
            raise ImageError(f"has {target.width} x {target.height} px, its map of classes {width} x {height} px")
        self.pixels += class_pixels(target.class_map, len(self.pixels))
        return (encode_grey if self._source.grey_maps else encode_class_map)(target.class_map)
