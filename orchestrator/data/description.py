"""What is recorded of a dataset with every sweep over it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.data.arrow_images import ArrowImages, open_images
from orchestrator.data.manifest import Manifest, read_manifest
from orchestrator.data.storage import open_folder
from orchestrator.uris import without_password


def describe_dataset(name: str | None, located: str) -> tuple[dict[str, Any], str]:
    """The facts about a dataset, and its whole manifest.

    Args:
        name: A registered dataset; a prepared one says its name itself.
        located: As `locate_dataset` found it.

    Returns:
        Name, address, content hash, classes, shape of an image, and images per split and class; and the text of the
        manifest, which is the same facts for a dataset that has none.
    """
    uri = without_password(located)
    if "://" not in located and Path(located).suffix == ".arrow":
        facts = {"name": name, "uri": uri, **_of_images(open_images(Path(located)))}
        return facts, json.dumps(facts, indent=1) + "\n"
    manifest = read_manifest(open_folder(located))
    return {"name": manifest.name, "uri": uri, **_of_manifest(manifest)}, manifest.to_json()


def _of_manifest(manifest: Manifest) -> Mapping[str, Any]:
    splits = {
        name: {"images": split.images, "per_class": list(split.per_class)} for name, split in manifest.splits.items()
    }
    shape = None if manifest.image_shape is None else list(manifest.image_shape)
    return _facts(manifest.content_hash, manifest.class_names, shape, splits)


def _of_images(dataset: ArrowImages) -> Mapping[str, Any]:
    classes = len(dataset.class_names)
    splits = {
        name: {"images": len(split), "per_class": np.bincount(split.labels, minlength=classes).tolist()}
        for name, split in dataset.splits.items()
    }
    shape = list(dataset.splits["train"].images.shape[1:])
    return _facts(dataset.content_hash, dataset.class_names, shape, splits)


def _facts(
    content_hash: str, class_names: tuple[str, ...], shape: list[int] | None, splits: Mapping[str, Any]
) -> Mapping[str, Any]:
    return {
        "content_hash": content_hash,
        "num_classes": len(class_names),
        "class_names": list(class_names),
        "image_shape": shape,
        "splits": splits,
    }
