"""Checks of a manifest: agreement of its numbers, and suitability of the dataset for training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from orchestrator.data.decoding import MOST_PIXELS
from orchestrator.data.manifest import Manifest, Split, combined_hash
from orchestrator.data.shown_names import shown_name

__all__ = ["SMALLEST_STD", "class_faults", "contradictions", "hash_faults", "images_hash", "training_faults"]

NEEDED = ("train", "test")
SMALLEST_STD = 1e-5
"""Deviation of pixels in [0, 1] below which all pixels count as equal; rounding alone gives up to 1e-6."""

_MOST_VALUES = 3 * MOST_PIXELS  # Arrow counts those of an image in 32 bits
_NAMED = 10


def contradictions(manifest: Manifest) -> list[str]:
    """Return the contradictions within a manifest, one clause each."""
    faults = [*_shape_faults(manifest), *_name_faults(manifest)]
    for name, split in manifest.splits.items():
        if split.images or split.shards:
            faults.extend(_split_faults(name, split, len(manifest.class_names)))
    return faults


def hash_faults(manifest: Manifest) -> list[str]:
    """Return a fault if the hash is not that of the shards and classes; checked after all other fields."""
    if manifest.content_hash == images_hash(manifest.class_names, manifest.splits.items()):
        return []
    return [f"its hash {manifest.content_hash} is not that of its shards and classes"]


def training_faults(manifest: Manifest) -> list[str]:
    """Return the reasons why no sweep could train on a dataset, one clause each."""
    faults = []
    for name in NEEDED:
        split = manifest.splits.get(name)
        if split is None or not split.images:
            faults.append(f"split '{name}' is {'missing' if split is None else 'empty'}")
        else:
            faults.extend(class_faults(name, split.per_class, manifest.class_names))
    return faults


def class_faults(split: str, per_class: Sequence[int], class_names: Sequence[str]) -> Iterator[str]:
    """Yield the classes of which a split has too few images.

    Args:
        split: Name of the split; training images are split into training and validation, so each class needs two.
        per_class: Number of images of each class.
        class_names: Names of the classes.
    """
    if len(per_class) != len(class_names):
        yield f"split '{split}' counts {len(per_class)} classes, {len(class_names)} have names"
    absent = [shown_name(name) for name, count in zip(class_names, per_class, strict=False) if not count]
    if absent:
        yield f"split '{split}' has no image of {', '.join(absent[:_NAMED])}{' ...' if absent[_NAMED:] else ''}"
    if split == "train" and 1 in per_class[: len(class_names)]:
        name = shown_name(class_names[per_class.index(1)])
        yield f"split 'train' has a single image of {name}; validation and training need one each"


def images_hash(class_names: Sequence[str], splits: Iterable[tuple[str, Split]]) -> str:
    """Return the hash of all images, labels and class names of a dataset."""
    hashes = [f"{name} {shard.images} {shard.content_hash}" for name, split in splits for shard in split.shards]
    return combined_hash([*class_names, *hashes])


def _shape_faults(manifest: Manifest) -> Iterator[str]:
    if (manifest.kind == "pixels") != (manifest.image_shape is not None):
        yield f"kind '{manifest.kind}' and image_shape {manifest.image_shape} contradict each other"
    if manifest.image_shape is not None and math.prod(manifest.image_shape) > _MOST_VALUES:
        yield f"images of {manifest.image_shape} values are larger than any that is read"
    channels = manifest.image_shape[0] if manifest.image_shape else 3
    for what, values in (("mean", manifest.mean), ("std", manifest.std)):
        if len(values) != channels:
            yield f"{what} has {len(values)} values for images of {channels} channels"
    flat = [number for number, value in enumerate(manifest.std) if value < SMALLEST_STD]
    if flat:
        yield f"split 'train' has a deviation of 0 in channel {flat[0]}: its pixels are all alike"


def _name_faults(manifest: Manifest) -> Iterator[str]:
    if not manifest.class_names:
        yield "it names no class"
    twice = [name for name, count in Counter(manifest.class_names).items() if count > 1]
    if twice:
        yield f"class {shown_name(twice[0])} comes twice"
    files = Counter(shard.file for split in manifest.splits.values() for shard in split.shards)
    for file, count in files.items():
        if count > 1:
            yield f"shard {file} is listed {count} times"


def _split_faults(name: str, split: Split, classes: int) -> Iterator[str]:
    held = sum(shard.images for shard in split.shards)
    if held != split.images:
        yield f"split '{name}' announces {split.images} images, its shards {held}"
    if not split.per_class:
        if name in NEEDED:
            yield f"split '{name}' has no labels"
    elif name not in NEEDED and len(split.per_class) != classes:
        yield f"split '{name}' counts {len(split.per_class)} classes, {classes} have names"
    elif sum(split.per_class) != split.images:
        yield f"split '{name}' announces {split.images} images, its classes {sum(split.per_class)}"
