"""What a prepared dataset says of itself: `manifest.json` beside its shards.

It is written last: without a manifest there is no dataset.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from orchestrator.data.storage import Folder
from orchestrator.errors import DataError

__all__ = ["MANIFEST_NAME", "BadImage", "Manifest", "Shard", "Split", "combined_hash", "read_manifest"]

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1
Kind = Literal["pixels", "encoded"]


@dataclass(frozen=True)
class BadImage:
    """An image that could not be read.

    Args:
        image: Its file, or its position in one.
        reason: Why.
    """

    image: str
    reason: str


@dataclass(frozen=True)
class Shard:
    """One file of images.

    Args:
        file: Its name.
        images: Rows in it.
        bytes: Its size.
        content_hash: Of all images and labels in order.
    """

    file: str
    images: int
    bytes: int
    content_hash: str


@dataclass(frozen=True)
class Split:
    """One split of a dataset.

    Args:
        images: In all its shards.
        per_class: Images of each class, in the order of the class names; empty for images without labels.
        shards: In order.
    """

    images: int
    per_class: tuple[int, ...]
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Manifest:
    """A whole dataset.

    Args:
        name: The dataset.
        kind: `pixels` (uint8 arrays of one shape) or `encoded` (image files as they were).
        image_shape: Channels, height, width; for encoded images None.
        class_names: One per label.
        splits: At least `train` and `test`.
        mean: Per channel, of the training images scaled to [0, 1].
        std: Likewise.
        content_hash: Changes when any image or label does.
        source: Where the images came from.
        bad_images: What was left out.
    """

    name: str
    kind: Kind
    image_shape: tuple[int, int, int] | None
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    content_hash: str
    source: Mapping[str, str]
    bad_images: tuple[BadImage, ...] = ()

    def to_json(self) -> str:
        """The content of `manifest.json`."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=1) + "\n"


def read_manifest(folder: Folder) -> Manifest:
    """Reads the manifest of a prepared dataset.

    Raises:
        DataError: There is none, or it was not written by this version.
    """
    where = folder.where(MANIFEST_NAME)
    raw = folder.read(MANIFEST_NAME)
    if raw is None:
        raise DataError(
            f"{where}: no such file. Make it: spatialsweep data prepare NAME --from SOURCE --to {folder.shown}"
        )
    try:
        content = json.loads(raw)
        version = content.pop("schema_version")
        if version != SCHEMA_VERSION:
            raise DataError(f"{where}: has format {version}, this version reads {SCHEMA_VERSION}; prepare it again")
        return _parse(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: is no manifest of SpatialSweep's ({error}); prepare the dataset again") from None


def combined_hash(parts: Iterable[str]) -> str:
    """One hash of several texts in order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _parse(content: dict[str, Any]) -> Manifest:
    splits = {
        name: Split(split["images"], tuple(split["per_class"]), tuple(Shard(**shard) for shard in split["shards"]))
        for name, split in content["splits"].items()
    }
    shape = content["image_shape"]
    lists = {key: tuple(content[key]) for key in ("class_names", "mean", "std")}
    bad_images = tuple(BadImage(**bad) for bad in content["bad_images"])
    fixed = {**lists, "splits": splits, "bad_images": bad_images, "image_shape": tuple(shape) if shape else None}
    return Manifest(**{**content, **fixed})
