"""Description of a dataset that is recorded with every sweep over it."""

from __future__ import annotations

from typing import Any

from orchestrator.data.manifest import read_manifest
from orchestrator.data.storage import open_folder
from orchestrator.uris import without_password


def describe_dataset(located: str) -> tuple[dict[str, Any], str]:
    """Return the facts about a dataset, and the text of its manifest.

    Args:
        located: Result of `locate_dataset`.

    Returns:
        Name, address without a password, content hash, classes, shape of an image, and numbers of images per split
        and class; and the text of the manifest.
    """
    manifest = read_manifest(open_folder(located))
    facts = {
        "name": manifest.name,
        "uri": without_password(located),
        "content_hash": manifest.content_hash,
        "num_classes": len(manifest.class_names),
        "class_names": list(manifest.class_names),
        "image_shape": None if manifest.image_shape is None else list(manifest.image_shape),
        "splits": {
            name: {"images": split.images, "per_class": list(split.per_class)}
            for name, split in manifest.splits.items()
        },
    }
    return facts, manifest.to_json()
