"""Description of a dataset that is recorded with every sweep over it."""

from __future__ import annotations

from typing import Any

from orchestrator.data.manifest import Manifest
from orchestrator.data.scenes.manifest import SceneManifest, read_any_manifest
from orchestrator.data.storage import open_folder
from orchestrator.uris import without_password


def describe_dataset(located: str, annotation: str = "") -> tuple[dict[str, Any], str]:
    """Return the facts about a dataset, and the text of its manifest.

    Args:
        located: Result of `locate_dataset`.
        annotation: Kind of annotation that a sweep reads, see `TaskFacts.annotation`.

    Returns:
        Name, address without a password, content hash, classes, shape of an image, and numbers of images per split
        and class; and the text of the manifest. Annotated images have the classes of their maps where a sweep reads
        these or they have no boxes, else those of the objects; both kinds are in the manifest.
    """
    manifest = read_any_manifest(open_folder(located))
    facts = {"name": manifest.name, "uri": without_password(located), "content_hash": manifest.content_hash}
    described = _scenes(manifest, annotation) if isinstance(manifest, SceneManifest) else _labelled(manifest)
    return {**facts, **described}, manifest.to_json()


def _labelled(manifest: Manifest) -> dict[str, Any]:
    return {
        "num_classes": len(manifest.class_names),
        "class_names": list(manifest.class_names),
        "image_shape": None if manifest.image_shape is None else list(manifest.image_shape),
        "splits": {
            name: {"images": split.images, "per_class": list(split.per_class)}
            for name, split in manifest.splits.items()
        },
    }


def _scenes(manifest: SceneManifest, annotation: str) -> dict[str, Any]:
    of_maps = annotation == "class_map" or not manifest.class_names
    names = manifest.map_class_names if of_maps else manifest.class_names
    return {
        "num_classes": len(names),
        "class_names": list(names),
        "image_shape": None,
        "annotations": list(manifest.annotations),
        "splits": {
            name: {"images": split.images, "per_class": list(split.pixels if of_maps else split.objects)}
            for name, split in manifest.splits.items()
        },
    }
