"""A prepared dataset as training reads it: on this machine, whole, and what its manifest says it is.

A dataset in an object store is copied once to a folder of this machine (`SPATIALSWEEP_CACHE`, or
`~/.cache/spatialsweep`), which its workers share. Every fault is told in one error, before any training.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orchestrator.data.arrow_images import ArrowImages, ImageSplit
from orchestrator.data.encoded_images import EncodedImages
from orchestrator.data.manifest import Manifest, Shard, read_manifest
from orchestrator.data.manifest_checks import contradictions, hash_faults, training_faults
from orchestrator.data.shard_files import labels_of, map_shard, rows_hash
from orchestrator.data.stacked_images import StackedImages
from orchestrator.data.storage import Folder, open_folder
from orchestrator.errors import DataError
from orchestrator.files.contained_paths import contained

__all__ = ["PreparedDataset", "check_manifest", "open_prepared"]


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
            batches = map_shard(self.folder / shard.file, shard.file, shape)
        except DataError as error:
            faults.append(str(error))
            return None
        if len(batches) != 1:
            faults.append(f"{shard.file}: has {len(batches)} batches; a shard of pixels has one")
        elif len(batches[0]) != shard.images:
            faults.append(f"{shard.file}: has {len(batches[0])} images, not {shard.images} as announced")
        else:
            pixels = batches[0].column("image").flatten().to_numpy(zero_copy_only=True)
            return ImageSplit(pixels.reshape(-1, *shape), labels_of(batches))
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
    target = contained(_cache(), manifest.content_hash, "hash of a dataset")
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".lock").open("w") as lock:  # the workers of this machine copy it once
        fcntl.flock(lock, fcntl.LOCK_EX)
        for shard in _needed(manifest):
            place = contained(target, shard.file, "shard")
            if not place.exists() or place.stat().st_size != shard.bytes:
                folder.fetch(shard.file, place, partial(_check_content, folder, manifest, shard))
    return PreparedDataset(target, manifest)


def check_manifest(folder: Folder, manifest: Manifest) -> None:
    """Holds a manifest against itself and against the shards that are there.

    Raises:
        DataError: With every fault found.
    """
    sizes = folder.sizes()
    faults = training_faults(manifest)
    for shard in _needed(manifest):
        if shard.file not in sizes:
            faults.append(f"{shard.file} is missing")
        elif sizes[shard.file] != shard.bytes:
            faults.append(f"{shard.file} has {sizes[shard.file]} bytes, not {shard.bytes} as when it was written")
    faults.extend(contradictions(manifest))
    _raise(folder.shown, faults or hash_faults(manifest))


def _check_content(folder: Folder, manifest: Manifest, shard: Shard, copy: Path) -> None:
    """Refuse a shard of other images than the manifest names: the cache is shared by all that name them."""
    where = folder.where(shard.file)
    found = rows_hash(map_shard(copy, where, manifest.image_shape))
    if found != shard.content_hash:
        raise DataError(f"{where}: holds other images than its manifest says; prepare the dataset again")


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
