"""A prepared dataset as training reads it: on this machine, whole, and what its manifest says it is.

A dataset in an object store is copied once to a folder of this machine (`SPATIALSWEEP_CACHE`, or
`~/.cache/spatialsweep`), which its workers share. Every fault is told in one error, before any training.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator.data.arrow_images import ArrowImages, ImageSplit
from orchestrator.data.encoded_images import EncodedImages
from orchestrator.data.manifest import Manifest, Shard, read_manifest
from orchestrator.data.stacked_images import StackedImages
from orchestrator.data.storage import Folder, open_folder
from orchestrator.errors import DataError

__all__ = ["PreparedDataset", "check_manifest", "open_prepared"]

NEEDED = ("train", "test")


@dataclass(frozen=True)
class PreparedDataset:
    """A dataset of which every needed shard lies on this machine.

    Args:
        folder: That holds the shards.
        manifest: What it is.
    """

    folder: Path
    manifest: Manifest

    def images(self) -> ArrowImages:
        """Small images, mapped; images without labels are left out.

        Raises:
            DataError: The dataset holds image files, or its shards are not what the manifest says.
        """
        manifest = self.manifest
        if manifest.image_shape is None:
            raise DataError(f"{self.folder}: holds image files, not pixels")
        faults: list[str] = []
        splits = {}
        for name, facts in manifest.splits.items():
            if not facts.per_class:
                continue
            parts = [part for shard in facts.shards if (part := self._map(shard, manifest.image_shape, faults))]
            if not faults:
                splits[name] = _joined(parts)
                faults.extend(_count_faults(name, splits[name].labels, facts.per_class))
        _raise(str(self.folder), faults)
        return ArrowImages(splits, manifest.class_names, manifest.mean, manifest.std, manifest.content_hash)

    def files(self, split: str) -> EncodedImages:
        """The image files of a split.

        Raises:
            DataError: The dataset holds pixels, or its shards are not what the manifest says.
        """
        if self.manifest.image_shape is not None:
            raise DataError(f"{self.folder}: holds pixels, not image files")
        facts = self.manifest.splits[split]
        images = EncodedImages([self.folder / shard.file for shard in facts.shards])
        _raise(str(self.folder), list(_count_faults(split, images.labels, facts.per_class)))
        return images

    def _map(self, shard: Shard, shape: tuple[int, int, int], faults: list[str]) -> ImageSplit | None:
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(self.folder / shard.file), "r"))
            batch = reader.get_batch(0)
            size = batch.schema.field("image").type.list_size
            labels = batch.column("label").to_numpy(zero_copy_only=True)
        except (OSError, pa.ArrowInvalid, KeyError, AttributeError) as error:
            faults.append(f"{shard.file}: cannot be read as a shard of images ({error})")
            return None
        if size != int(np.prod(shape)):
            faults.append(f"{shard.file}: has images of {size} values, not {' x '.join(map(str, shape))} as announced")
        elif len(labels) != shard.images:
            faults.append(f"{shard.file}: has {len(labels)} images, not {shard.images} as announced")
        else:
            pixels = batch.column("image").flatten().to_numpy(zero_copy_only=True)
            return ImageSplit(pixels.reshape(-1, *shape), labels)
        return None


def open_prepared(uri: str) -> PreparedDataset:
    """Opens a dataset, and copies it here first if it lies elsewhere.

    Raises:
        DataError: It is not there, or not whole.
    """
    folder = open_folder(uri)
    manifest = read_manifest(folder)
    check_manifest(folder, manifest)
    if folder.local:
        return PreparedDataset(folder.local, manifest)
    target = _cache() / manifest.content_hash
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".lock").open("w") as lock:  # the workers of this machine copy it once
        fcntl.flock(lock, fcntl.LOCK_EX)
        for shard in _needed(manifest):
            place = target / shard.file
            if not place.exists() or place.stat().st_size != shard.bytes:
                folder.fetch(shard.file, place)
    return PreparedDataset(target, manifest)


def check_manifest(folder: Folder, manifest: Manifest) -> None:
    """Holds a manifest against itself and against the shards that are there.

    Raises:
        DataError: With every fault found.
    """
    sizes = folder.sizes()
    faults = []
    for split in NEEDED:
        facts = manifest.splits.get(split)
        if facts is None or not facts.images:
            faults.append(f"split '{split}' is {'missing' if facts is None else 'empty'}")
            continue
        if len(facts.per_class) != len(manifest.class_names):
            faults.append(
                f"split '{split}' counts {len(facts.per_class)} classes, {len(manifest.class_names)} have names"
            )
        absent = [name for name, count in zip(manifest.class_names, facts.per_class, strict=False) if not count]
        if absent:
            faults.append(f"split '{split}' has no image of {', '.join(absent[:10])}{' ...' if absent[10:] else ''}")
        if split == "train" and 1 in facts.per_class:
            name = manifest.class_names[facts.per_class.index(1)]
            faults.append(f"split 'train' has a single image of {name}; validation and training need one each")
    for shard in _needed(manifest):
        if shard.file not in sizes:
            faults.append(f"{shard.file} is missing")
        elif sizes[shard.file] != shard.bytes:
            faults.append(f"{shard.file} has {sizes[shard.file]} bytes, not {shard.bytes} as when it was written")
    _raise(folder.shown, faults)


def _needed(manifest: Manifest) -> Iterator[Shard]:
    """The shards of everything with labels."""
    for facts in manifest.splits.values():
        if facts.per_class:
            yield from facts.shards


def _joined(parts: list[ImageSplit]) -> ImageSplit:
    if len(parts) == 1:
        return parts[0]
    pixels = [np.asarray(part.images) for part in parts]
    return ImageSplit(StackedImages(pixels), np.concatenate([part.labels for part in parts]))


def _count_faults(split: str, labels: npt.NDArray[np.int32], per_class: tuple[int, ...]) -> Iterator[str]:
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(per_class):
        yield f"split '{split}' has labels {labels.min()}..{labels.max()}; there are {len(per_class)} classes"
    elif tuple(np.bincount(labels, minlength=len(per_class)).tolist()) != per_class:
        yield f"split '{split}' has other numbers of images per class than its manifest says"


def _raise(where: str, faults: list[str]) -> None:
    if faults:
        raise DataError(f"{where}: {'; '.join(faults)}. Prepare the dataset again")


def _cache() -> Path:
    chosen = os.environ.get("SPATIALSWEEP_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "spatialsweep"
