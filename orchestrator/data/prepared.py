"""Opening of a prepared dataset: shards on this machine, checked against the manifest.

A dataset in an object store is copied to this machine first (`local_copies`). All problems are reported in one error,
before any training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orchestrator.data.encoded_images import EncodedImages
from orchestrator.data.image_dataset import ImageDataset, PixelImages
from orchestrator.data.local_copies import copied_shards
from orchestrator.data.manifest import Manifest, Shard, read_manifest
from orchestrator.data.manifest_checks import contradictions, hash_faults, training_faults
from orchestrator.data.shard_files import labels_of, map_shard, rows_hash
from orchestrator.data.stacked_images import StackedImages
from orchestrator.data.storage import Folder, open_folder
from orchestrator.errors import DataError

__all__ = ["check_manifest", "open_prepared"]

_HASHED_BYTES = 1 << 20
"""Size up to which shards of pixels are compared with their hashes whenever they are opened, in milliseconds."""


def open_prepared(uri: str | Path) -> ImageDataset:
    """Open a dataset, and copy it to this machine first if it is stored elsewhere.

    Args:
        uri: Folder of the dataset, local or not.

    Raises:
        DataError: It is missing or incomplete, or its shards of pixels do not match the manifest.
    """
    folder = open_folder(uri)
    manifest = read_manifest(folder)
    check_manifest(folder, manifest)
    place = folder.local or copied_shards(
        folder, manifest.content_hash, _labelled_shards(manifest), partial(_check_content, folder, manifest)
    )
    return ImageDataset(
        splits=_EncodedSplits(place, manifest) if manifest.image_shape is None else _pixel_splits(place, manifest),
        class_names=manifest.class_names,
        mean=manifest.mean,
        std=manifest.std,
        content_hash=manifest.content_hash,
    )


def check_manifest(folder: Folder, manifest: Manifest) -> None:
    """Compare a manifest with itself and with the shards that are present.

    Raises:
        DataError: At least one problem was found; the text lists all of them.
    """
    sizes = folder.sizes()
    faults = training_faults(manifest)
    for shard in _labelled_shards(manifest):
        if shard.file not in sizes:
            faults.append(f"{shard.file} is missing")
        elif sizes[shard.file] != shard.bytes:
            faults.append(f"{shard.file} has {sizes[shard.file]} bytes, not {shard.bytes} as when it was written")
    faults.extend(contradictions(manifest))
    _raise(folder.shown, faults or hash_faults(manifest))


class _EncodedSplits(Mapping[str, EncodedImages]):
    """Labelled splits of image files, each opened on first use: opening reads the labels of all its shards.

    Args:
        folder: Folder of the shards.
        manifest: Manifest of the dataset.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._facts = {name: facts for name, facts in manifest.splits.items() if facts.per_class}
        self._opened: dict[str, EncodedImages] = {}

    def __getitem__(self, name: str) -> EncodedImages:
        """Return the image files of a split.

        Raises:
            DataError: Its shards do not match the manifest.
        """
        if name not in self._opened:
            facts = self._facts[name]
            images = EncodedImages([self._folder / shard.file for shard in facts.shards])
            _raise(str(self._folder), list(_count_faults(name, images.labels, facts.per_class)))
            self._opened[name] = images
        return self._opened[name]

    def __contains__(self, name: object) -> bool:
        return name in self._facts  # without opening it

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)


def _pixel_splits(folder: Path, manifest: Manifest) -> Mapping[str, PixelImages]:
    """Map all shards of pixels that have labels.

    Raises:
        DataError: They do not match the manifest.
    """
    faults: list[str] = []
    splits = {}
    for name, facts in manifest.splits.items():
        if not facts.per_class:
            continue
        parts = [part for shard in facts.shards if (part := _mapped(folder, shard, manifest.image_shape, faults))]
        if not faults:
            splits[name] = _joined(parts)
            faults.extend(_count_faults(name, splits[name].labels, facts.per_class))
    _raise(str(folder), faults or list(_content_faults(folder, manifest)))
    return splits


def _mapped(folder: Path, shard: Shard, shape: tuple[int, int, int] | None, faults: list[str]) -> PixelImages | None:
    """Map a shard of pixels; on a problem, append it to `faults` and return None."""
    try:
        batches = map_shard(folder / shard.file, shard.file, shape)
    except DataError as error:
        faults.append(str(error))
        return None
    if len(batches) != 1:
        faults.append(f"{shard.file}: has {len(batches)} batches; a shard of pixels has one")
    elif len(batches[0]) != shard.images:
        faults.append(f"{shard.file}: has {len(batches[0])} images, not {shard.images} as announced")
    else:
        pixels = batches[0].column("image").flatten().to_numpy(zero_copy_only=True)
        return PixelImages(pixels.reshape(-1, *(shape or ())), labels_of(batches))
    return None


def _content_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield the shards of a small dataset whose images or labels were changed."""
    if sum(shard.bytes for shard in _labelled_shards(manifest)) > _HASHED_BYTES:
        return
    for shard in _labelled_shards(manifest):
        if rows_hash(map_shard(folder / shard.file, shard.file, manifest.image_shape)) != shard.content_hash:
            yield f"{shard.file}: its images or labels are not those that were written"


def _check_content(folder: Folder, manifest: Manifest, shard: Shard, copy: Path) -> None:
    """Check that a copied shard holds the images of the manifest: all datasets with their hash share the cache."""
    where = folder.where(shard.file)
    found = rows_hash(map_shard(copy, where, manifest.image_shape))
    if found != shard.content_hash:
        raise DataError(f"{where}: holds other images than its manifest says; prepare the dataset again")


def _labelled_shards(manifest: Manifest) -> Iterator[Shard]:
    """Yield the shards of all splits with labels."""
    for facts in manifest.splits.values():
        if facts.per_class:
            yield from facts.shards


def _joined(parts: list[PixelImages]) -> PixelImages:
    if len(parts) == 1:
        return parts[0]
    pixels = [np.asarray(part.images) for part in parts]
    return PixelImages(StackedImages(pixels), np.concatenate([part.labels for part in parts]))


def _count_faults(split: str, labels: npt.NDArray[np.int32], per_class: tuple[int, ...]) -> Iterator[str]:
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(per_class):
        yield f"split '{split}' has labels {labels.min()}..{labels.max()}; there are {len(per_class)} classes"
    elif tuple(np.bincount(labels, minlength=len(per_class)).tolist()) != per_class:
        yield f"split '{split}' has other numbers of images per class than its manifest says"


def _raise(where: str, faults: list[str]) -> None:
    if faults:
        raise DataError(f"{where}: {'; '.join(faults)}. Prepare the dataset again")
