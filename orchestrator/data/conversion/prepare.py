"""Conversion of a distributed dataset to shards and a manifest; an interrupted call is resumed by the next one.

A source is cut into stretches of a fixed number of images. Each is converted to a shard on its own
(`shards.convert_shard`), in this process or where `run` sends it. A finished shard leaves a record, and the next call
reuses it. The manifest is written last.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from orchestrator.data.conversion.folder_ownership import claim
from orchestrator.data.conversion.scene_shards import scene_manifest
from orchestrator.data.conversion.shard_conversion import convert_shard
from orchestrator.data.conversion.shards import ShardRecord, ShardTask
from orchestrator.data.manifest import (
    MANIFEST_NAME,
    BadImage,
    Manifest,
    Split,
    combined_hash,
)
from orchestrator.data.manifest_checks import SMALLEST_STD, contradictions, images_hash, training_faults
from orchestrator.data.scenes.manifest import SceneManifest, read_any_manifest, scene_faults
from orchestrator.data.sources import Source, open_source
from orchestrator.data.sources.scenes.faults import faults_message
from orchestrator.data.sources.scenes.scene_source import SceneSource
from orchestrator.data.storage import PARTS, Folder, open_folder
from orchestrator.errors import DataError

__all__ = ["Notice", "Progress", "Runner", "prepare"]

Runner = Callable[[Source, Sequence[ShardTask]], Iterable[ShardRecord]]
"""Function that converts shards in any order and yields the record of each when it is finished."""

Progress = Callable[[int, int], None]
"""Function called with the number of converted images and of all images."""

Notice = Callable[[str], None]
"""Function called with one line about files that were ignored."""

_PIXEL_SHARD_BYTES = 64 << 20
_ENCODED_SHARD_IMAGES = 1024
_LISTED = 20
_LOG = logging.getLogger(__name__)


def run_here(source: Source, tasks: Sequence[ShardTask]) -> Iterator[ShardRecord]:
    """Convert shards one after another in this process."""
    for task in tasks:
        yield convert_shard(source, task)


def prepare(
    name: str,
    place: Path | None,
    uri: str,
    *,
    max_bad: int = 0,
    max_bad_annotations: int = 0,
    images_per_shard: int | None = None,
    run: Runner = run_here,
    progress: Progress = lambda _done, _all: None,
    scratch: Path | None = None,
    notice: Notice = _LOG.warning,
) -> Manifest | SceneManifest:
    """Convert a dataset, or resume its conversion. Blocks until the manifest is written.

    Args:
        name: Name of a source of `sources.SOURCES`.
        place: Folder or archive of the dataset; None for the embedded one.
        uri: Folder to write, local or not.
        max_bad: Largest number of unreadable images; they are left out and listed in the manifest.
        max_bad_annotations: Largest number of faulty annotations of annotated images; they are left out, and the
            manifest has their number and first examples.
        images_per_shard: Images per shard; None takes about 64 MiB of pixels, or 1024 image files.
        run: Function that converts the shards.
        progress: Function called after every finished shard.
        scratch: Folder for unpacked archives, reachable by the processes that convert shards; None takes the
            system's own.
        notice: Function called with one line about each kind of ignored files.

    Raises:
        DataError: The source is damaged, the target holds other files, too many images are unreadable, or the
            remaining images cannot be trained on.
    """
    folder = open_folder(uri)
    with open_source(name, place, scratch=scratch) as source:
        _report(source, notice, max_bad, max_bad_annotations)
        size = images_per_shard or _usual_images(source)
        tasks = _plan(source, folder, size)
        if MANIFEST_NAME in folder.sizes():
            return _already_prepared(folder, _plan_hashes(source, size))
        claim(folder, [task.file for task in tasks])
        records = {record.shard.file: record for record in _reusable(folder, tasks, max_bad)}
        total = sum(task.stop - task.start for task in tasks)
        done = sum(task.stop - task.start for task in tasks if task.file in records)
        progress(done, total)
        left = [task for task in tasks if task.file not in records]
        sizes = {task.file: task.stop - task.start for task in left}
        for record in run(source, left):
            records[record.shard.file] = record
            done += sizes[record.shard.file]
            progress(done, total)
        ordered = [records[task.file] for task in tasks]
        _check_bad([bad for record in ordered for bad in record.bad_images], max_bad, folder)
        written = os.fsencode(place or "embedded").decode("utf-8", "backslashreplace")
        origin = {"place": written, "plan": tasks[0].plan, "fingerprint": source.fingerprint}
        manifest = _manifest(name, source, ordered, origin)
        _check_whole(manifest, ordered, folder)
    folder.write(MANIFEST_NAME, manifest.to_json().encode())
    folder.remove_folder(PARTS)
    return manifest


def _usual_images(source: Source) -> int:
    """Return the number of images of a shard where the user names none."""
    if source.image_shape is None:
        return _ENCODED_SHARD_IMAGES
    return max(1, _PIXEL_SHARD_BYTES // math.prod(source.image_shape))


def _plan_hashes(source: Source, size: int) -> list[str]:
    """Return the fingerprint of a source and its division into shards, then those of earlier versions for the same."""
    rest = [str(size), str(source.image_shape), *source.class_names]
    return [combined_hash([found, *rest]) for found in (source.fingerprint, *source.earlier_fingerprints)]


def _plan(source: Source, folder: Folder, size: int) -> list[ShardTask]:
    """Cut every split into shards of some images; the same source is always cut in the same way."""
    empty = [split for split, images in source.splits.items() if not images]
    if empty:
        raise DataError(f"{source.root}: split '{empty[0]}' is empty")
    plan, *_ = _plan_hashes(source, size)
    return [
        ShardTask(
            plan=plan,
            uri=folder.uri,
            split=split,
            file=f"{split}-{number:05d}.arrow",
            start=start,
            stop=min(start + size, images),
        )
        for split, images in source.splits.items()
        for number, start in enumerate(range(0, images, size))
    ]


def _already_prepared(folder: Folder, plans: Sequence[str]) -> Manifest | SceneManifest:
    manifest = read_any_manifest(folder)
    if manifest.source.get("plan") not in plans:
        raise DataError(
            f"{folder.shown}: holds {manifest.name}, made from other files or cut otherwise; choose another folder, or "
            "remove this one"
        )
    return manifest


def _reusable(folder: Folder, tasks: Sequence[ShardTask], max_bad: int) -> list[ShardRecord]:
    """Return the records of an earlier call to reuse.

    With more unreadable images than allowed, those without any: the others may have been mended since, which their
    names and sizes need not show.
    """
    found = list(_finished(folder, tasks))
    if sum(len(record.bad_images) for record in found) > max_bad:
        return [record for record in found if not record.bad_images]
    return found


def _finished(folder: Folder, tasks: Sequence[ShardTask]) -> Iterator[ShardRecord]:
    """Yield the records of an earlier call whose shards still exist."""
    shards, records = folder.sizes(), folder.sizes(PARTS)
    for task in tasks:
        content = folder.read(task.record_file) if Path(task.record_file).name in records else None
        if content is None:
            continue
        record = ShardRecord.from_json(content)
        if record and record.belongs_to(task) and shards.get(task.file) == record.shard.bytes:
            yield record


def _report(source: Source, notice: Notice, max_bad: int, max_bad_annotations: int) -> None:
    """Report ignored files, and the faults that were found before any image is read, all in one error."""
    for line in source.notices:
        notice(line)
    if not isinstance(source, SceneSource):
        return
    faulty = sum(group.count for group in source.faulty_annotations)
    images = source.faulty_images
    if faulty <= max_bad_annotations and len(images) <= max_bad:
        return
    remedies = [f"--max-bad-annotations {faulty}"] if faulty > max_bad_annotations else []
    remedies += [f"--max-bad {len(images)}"] if len(images) > max_bad else []
    raise DataError(
        f"{source.root}: {faulty} annotations and {len(images)} images have faults. Mend them, or leave them out with "
        f"{' '.join(remedies)}:{faults_message(source.faulty_annotations, images)}"
    )


def _check_bad(bad_images: Sequence[BadImage], max_bad: int, folder: Folder) -> None:
    if len(bad_images) > max_bad:
        listed = "".join(f"\n  {bad.image}: {bad.reason}" for bad in bad_images[:_LISTED])
        more = f"\n  and {len(bad_images) - _LISTED} more" if len(bad_images) > _LISTED else ""
        raise DataError(
            f"{folder.shown}: {len(bad_images)} images cannot be read, {max_bad} are allowed. Fetch them again, or "
            f"leave them out with --max-bad {len(bad_images)}:{listed}{more}"
        )


def _manifest(
    name: str, source: Source, records: Sequence[ShardRecord], origin: dict[str, str]
) -> Manifest | SceneManifest:
    mean, std = _mean_and_std([record for record in records if record.split == "train"])
    if isinstance(source, SceneSource):
        return scene_manifest(name, source, records, origin, (mean, std))
    splits = {}
    for split, group in itertools.groupby(records, key=lambda record: record.split):
        parts = list(group)
        counts = [part.per_class for part in parts if part.per_class]
        splits[split] = Split(
            images=sum(part.shard.images for part in parts),
            per_class=tuple(np.sum(counts, axis=0).tolist()) if counts else (),
            shards=tuple(part.shard for part in parts),
        )
    return Manifest(
        name=name,
        kind="encoded" if source.image_shape is None else "pixels",
        image_shape=source.image_shape,
        class_names=source.class_names,
        splits=splits,
        mean=mean,
        std=std,
        content_hash=images_hash(source.class_names, splits.items()),
        source=origin,
        bad_images=tuple(bad for record in records for bad in record.bad_images),
    )


def _mean_and_std(records: Sequence[ShardRecord]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation per channel, of pixels in [0, 1]."""
    images = max(1, sum(record.shard.images for record in records))
    mean = np.clip(np.sum([record.sums for record in records], axis=0) / images, 0, 1)
    square = np.sum([record.square_sums for record in records], axis=0) / images
    return tuple(mean.tolist()), tuple(np.sqrt(np.maximum(square - mean**2, 0)).tolist())


def _check_whole(manifest: Manifest | SceneManifest, records: Sequence[ShardRecord], folder: Folder) -> None:
    """Reject a dataset that no sweep could train on."""
    if isinstance(manifest, SceneManifest):
        faults = list(scene_faults(manifest))
    else:
        faults = [*training_faults(manifest), *contradictions(manifest)]
    for split, facts in manifest.splits.items():
        std = _mean_and_std([record for record in records if record.split == split])[1]
        flat = [channel for channel, value in enumerate(std) if value < SMALLEST_STD]
        if facts.images and flat:
            faults.append(f"split '{split}' has a deviation of 0 in channel {flat[0]}: its pixels are all alike")
    if faults:
        raise DataError(f"{folder.shown}: cannot be trained on: {'; '.join(dict.fromkeys(faults))}. Mend the images")
