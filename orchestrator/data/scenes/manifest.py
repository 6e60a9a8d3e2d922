"""Manifest of a dataset of annotated images: `manifest.json` in format 2, next to format 1 of images with labels.

Untrusted like the other (`orchestrator.data.manifest`): every field is checked before use, and the fields are compared
with each other and with the shards.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic_core import to_json

from orchestrator.data.manifest import (
    MANIFEST_NAME,
    SCENES_VERSION,
    STRICT,
    BadImage,
    ClassName,
    ContentHash,
    Count,
    Manifest,
    Shard,
    Share,
    SplitName,
    combined_hash,
    manifest_content,
    no_manifest,
    read_manifest,
)
from orchestrator.data.manifest_checks import NEEDED, SMALLEST_STD
from orchestrator.data.scenes.target import IGNORED, Annotation
from orchestrator.data.shown_names import shown_name
from orchestrator.data.storage import Folder
from orchestrator.errors import DataError

__all__ = [
    "FaultGroup",
    "SceneManifest",
    "SceneSplit",
    "check_scene_manifest",
    "read_any_manifest",
    "read_scene_manifest",
    "scene_faults",
    "scenes_hash",
]


@dataclass(frozen=True)
class FaultGroup:
    """Faulty annotations of one kind.

    Args:
        kind: Kind of fault, such as `box outside the image`.
        count: Number of annotations.
        examples: First of them, one line each.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: str
    count: Count
    examples: tuple[str, ...]


@dataclass(frozen=True)
class SceneSplit:
    """One split of annotated images.

    Args:
        images: Number of images in all shards.
        objects: Number of objects of each class; empty without boxes.
        pixels: Number of pixels of each class of the maps; empty without maps.
        shards: Shards in order.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    images: Count
    objects: tuple[Count, ...]
    pixels: tuple[Count, ...]
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class SceneManifest:
    """Manifest of a dataset of annotated images.

    Args:
        name: Name of the dataset.
        kind: `scenes`.
        annotations: Kinds of annotations of every image.
        class_names: Names of the classes of objects; label 1 is the first. Empty without boxes.
        map_class_names: Names of the classes of the maps; class 0 is the first. Empty without maps.
        splits: Splits by name, at least `train` and `test`.
        mean: Mean per channel of the training images, scaled to [0, 1].
        std: Deviation per channel of the training images, scaled to [0, 1].
        content_hash: Hash of all images, annotations and class names.
        source: Origin of the images.
        bad_images: Images that were left out.
        bad_annotations: Annotations that were left out.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Annotated[str, Field(min_length=1, max_length=255)]
    kind: Literal["scenes"]
    annotations: Annotated[tuple[Annotation, ...], Field(min_length=1)]
    class_names: tuple[ClassName, ...]
    map_class_names: Annotated[tuple[ClassName, ...], Field(max_length=IGNORED)]
    splits: Mapping[SplitName, SceneSplit]
    mean: tuple[Share, ...]
    std: tuple[Share, ...]
    content_hash: ContentHash
    source: Mapping[str, str]
    bad_images: tuple[BadImage, ...] = ()
    bad_annotations: tuple[FaultGroup, ...] = ()

    def to_json(self) -> str:
        """Return the content of `manifest.json`."""
        return json.dumps({"schema_version": SCENES_VERSION, **asdict(self)}, indent=1) + "\n"


_MANIFEST = TypeAdapter(SceneManifest)


def read_scene_manifest(folder: Folder) -> SceneManifest:
    """Read the manifest of a prepared dataset of annotated images.

    Raises:
        DataError: It is missing, damaged, of another format version, or that of images with labels.
    """
    found = read_any_manifest(folder)
    if isinstance(found, Manifest):
        raise DataError(f"{folder.shown}: holds images with one label each ({found.name}), not annotated images")
    return found


def read_any_manifest(folder: Folder) -> Manifest | SceneManifest:
    """Read the manifest of a prepared dataset of either kind.

    Raises:
        DataError: It is missing, damaged, or of another format version.
    """
    version, content = manifest_content(folder)
    if version != SCENES_VERSION or content.get("kind") != "scenes":
        return read_manifest(folder)
    try:
        return _MANIFEST.validate_json(to_json(content))
    except ValueError as error:
        raise no_manifest(folder.where(MANIFEST_NAME), error) from None


def check_scene_manifest(folder: Folder, manifest: SceneManifest) -> None:
    """Compare a manifest with itself and with the shards that are present.

    Raises:
        DataError: At least one problem was found; the text lists all of them.
    """
    sizes = folder.sizes()
    faults = list(scene_faults(manifest))
    for split in manifest.splits.values():
        for shard in split.shards:
            if shard.file not in sizes:
                faults.append(f"{shard.file} is missing")
            elif sizes[shard.file] != shard.bytes:
                faults.append(f"{shard.file} has {sizes[shard.file]} bytes, not {shard.bytes} as when it was written")
    expected = scenes_hash(manifest.annotations, manifest.class_names, manifest.map_class_names, manifest.splits)
    if not faults and manifest.content_hash != expected:
        faults.append(f"its hash {manifest.content_hash} is not that of its shards and classes")
    if faults:
        raise DataError(f"{folder.shown}: {'; '.join(faults)}. Prepare the dataset again")


def scene_faults(manifest: SceneManifest) -> Iterator[str]:
    """Yield the contradictions within a manifest, and the reasons why no network could be trained on the dataset."""
    for name in NEEDED:
        if name not in manifest.splits or not manifest.splits[name].images:
            yield f"split '{name}' is {'empty' if name in manifest.splits else 'missing'}"
    boxes, maps = "boxes" in manifest.annotations, "class_map" in manifest.annotations
    if len(set(manifest.annotations)) != len(manifest.annotations) or ("masks" in manifest.annotations and not boxes):
        yield f"annotations {', '.join(manifest.annotations)} are no possible combination"
    for what, needed, names in (
        ("boxes", boxes, manifest.class_names),
        ("class_map", maps, manifest.map_class_names),
    ):
        if needed != bool(names):
            yield f"{len(names)} classes of {what} and the annotations {', '.join(manifest.annotations)} contradict"
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            yield f"class {shown_name(twice[0])} comes twice"
    for what, values in (("mean", manifest.mean), ("std", manifest.std)):
        if len(values) != 3:
            yield f"{what} has {len(values)} values for images of 3 channels"
    if flat := [number for number, value in enumerate(manifest.std) if value < SMALLEST_STD]:
        yield f"split 'train' has a deviation of 0 in channel {flat[0]}: its pixels are all alike"
    files = Counter(shard.file for split in manifest.splits.values() for shard in split.shards)
    yield from (f"shard {file} is listed {count} times" for file, count in files.items() if count > 1)
    for name, split in manifest.splits.items():
        yield from _split_faults(name, split, manifest)


def scenes_hash(
    annotations: Iterable[str],
    class_names: Sequence[str],
    map_class_names: Sequence[str],
    splits: Mapping[str, SceneSplit],
) -> str:
    """Return the hash of all images, annotations and class names of a dataset."""
    hashes = [f"{name} {shard.images} {shard.content_hash}" for name, split in splits.items() for shard in split.shards]
    names = [str(len(class_names)), *class_names, str(len(map_class_names)), *map_class_names]
    return combined_hash(["scenes", *annotations, *names, *hashes])


def _split_faults(name: str, split: SceneSplit, manifest: SceneManifest) -> Iterator[str]:
    held = sum(shard.images for shard in split.shards)
    if held != split.images:
        yield f"split '{name}' announces {split.images} images, its shards {held}"
    for what, counts, names in (
        ("objects", split.objects, manifest.class_names),
        ("pixels", split.pixels, manifest.map_class_names),
    ):
        if len(counts) != len(names):
            yield f"split '{name}' counts {what} of {len(counts)} classes, {len(names)} have names"
        elif names and name in NEEDED and not sum(counts):
            yield f"split '{name}' has no {'object' if what == 'objects' else 'pixel of a class'}"
