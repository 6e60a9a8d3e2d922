"""Datasets of the papers with their classes and image sizes, with black images."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from orchestrator.data.conversion.shards import write_pixel_shard
from orchestrator.data.encoded_images import write_encoded_shard
from orchestrator.data.manifest import Manifest, Shard, Split
from orchestrator.data.manifest_checks import images_hash
from tests.support.tiny_archives import png

CLASSES = {"cifar10": 10, "cifar100": 100, "stl10": 10, "imagenet": 1000}
SIDES = {"cifar10": 32, "cifar100": 32, "stl10": 96}
PER_CLASS = 20


def write_paper_datasets(folder: Path) -> Path:
    """Prepare every dataset of the papers in a folder of its name."""
    for name, classes in CLASSES.items():
        splits = {split: write_split(folder / name, split, name, classes) for split in ("train", "test")}
        shape = (3, SIDES[name], SIDES[name]) if name in SIDES else None
        manifest = Manifest(
            name=name,
            kind="pixels" if shape else "encoded",
            image_shape=shape,
            class_names=tuple(map(str, range(classes))),
            splits=splits,
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
            content_hash=images_hash(tuple(map(str, range(classes))), splits.items()),
            source={},
        )
        (folder / name / "manifest.json").write_text(manifest.to_json())
    return folder


def write_split(folder: Path, split: str, name: str, classes: int) -> Split:
    per_class = PER_CLASS if split == "train" and name in SIDES else 2
    per_class = 100 if split == "train" and name == "imagenet" else per_class
    labels = [label for label in range(classes) for _ in range(per_class)]
    file = folder / f"{split}-00000.arrow"
    folder.mkdir(exist_ok=True)
    if name in SIDES:
        black = np.zeros((3, SIDES[name], SIDES[name]), np.uint8)
        write_pixel_shard(file, [(black, label) for label in labels], black.shape)
    else:
        content = picture()
        write_encoded_shard(file, ((content, label) for label in labels))
    shard = Shard(file.name, len(labels), file.stat().st_size, "0" * 16)
    return Split(len(labels), (per_class,) * classes, (shard,))


@functools.cache
def picture() -> bytes:
    return png(np.zeros((3, 8, 8), np.uint8))
