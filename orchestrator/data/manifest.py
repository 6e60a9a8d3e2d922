"""Manifest of a prepared dataset: `manifest.json` in the folder of its shards.

The manifest is written last: a folder without it is not a dataset. A manifest is untrusted input: every field is
checked here before use, and `manifest_checks` compares the fields with each other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from orchestrator.data.shown_names import one_line
from orchestrator.data.storage import Folder
from orchestrator.errors import DataError
from orchestrator.files.contained_paths import plain_name

__all__ = [
    "MANIFEST_NAME",
    "SCENES_VERSION",
    "STRICT",
    "BadImage",
    "Manifest",
    "Shard",
    "Split",
    "combined_hash",
    "manifest_content",
    "no_manifest",
    "read_manifest",
]

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1
SCENES_VERSION = 2
"""Format of the manifest of annotated images (`orchestrator.data.scenes.manifest`)."""

_MOST_BYTES = 64 << 20

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""Pydantic configuration of the records in the folder of a dataset: no conversion, no unknown fields."""

Kind = Literal["pixels", "encoded"]
Count = Annotated[int, Field(ge=0, le=1 << 40)]
Bytes = Annotated[int, Field(ge=0, le=1 << 50)]
Side = Annotated[int, Field(ge=1, le=1 << 16)]
Share = Annotated[float, Field(ge=0, le=1)]
ContentHash = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
ShardName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_]{1,64}-[0-9]{5,9}\.arrow$"),
    AfterValidator(lambda name: plain_name(name, "shard")),
]
SplitName = Annotated[str, Field(pattern="^[A-Za-z0-9_]{1,64}$")]
ClassName = Annotated[str, Field(min_length=1, max_length=1000)]


@dataclass(frozen=True)
class BadImage:
    """An image that could not be read.

    Args:
        image: File of the image, or its position in a file.
        reason: Reason of the failure.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    image: str
    reason: str


@dataclass(frozen=True)
class Shard:
    """A shard: one file of images.

    Args:
        file: Name of the file.
        images: Number of images.
        bytes: Size in bytes.
        content_hash: Hash of all images and labels in order.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    file: ShardName
    images: Count
    bytes: Bytes
    content_hash: ContentHash


@dataclass(frozen=True)
class Split:
    """One split of a dataset.

    Args:
        images: Number of images in all shards.
        per_class: Number of images of each class, in the order of the class names; empty for images without labels.
        shards: Shards in order.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    images: Count
    per_class: tuple[Count, ...]
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Manifest:
    """Manifest of a dataset.

    Args:
        name: Name of the dataset.
        kind: `pixels` (uint8 arrays of one shape) or `encoded` (image files).
        image_shape: Channels, height and width; None for image files.
        class_names: Names of the classes, one per label.
        splits: Splits by name, at least `train` and `test`.
        mean: Mean per channel of the training images, scaled to [0, 1].
        std: Deviation per channel of the training images, scaled to [0, 1].
        content_hash: Hash of all images, labels and class names.
        source: Origin of the images.
        bad_images: Images that were left out.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Annotated[str, Field(min_length=1, max_length=255)]
    kind: Kind
    image_shape: tuple[Side, Side, Side] | None
    class_names: tuple[ClassName, ...]
    splits: Mapping[SplitName, Split]
    mean: tuple[Share, ...]
    std: tuple[Share, ...]
    content_hash: ContentHash
    source: Mapping[str, str]
    bad_images: tuple[BadImage, ...] = ()

    def to_json(self) -> str:
        """Return the content of `manifest.json`."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=1) + "\n"


_MANIFEST = TypeAdapter(Manifest)


def read_manifest(folder: Folder) -> Manifest:
    """Read the manifest of a prepared dataset of images with labels.

    Raises:
        DataError: It is missing, damaged, of another format version, or that of annotated images.
    """
    where = folder.where(MANIFEST_NAME)
    version, content = manifest_content(folder)
    if version == SCENES_VERSION and content.get("kind") == "scenes":
        raise DataError(
            f"{folder.shown}: holds images annotated with boxes, masks or maps of classes, and classification needs "
            "images with one label each. Use a dataset of such images, or task: segmentation for maps of classes; in "
            "Python, annotated images are read with orchestrator.data.scenes.open_scenes"
        )
    if version != SCHEMA_VERSION:
        raise DataError(f"{where}: has format {version}, this version reads {SCHEMA_VERSION}; prepare it again")
    try:
        return _MANIFEST.validate_json(to_json(content))
    except ValueError as error:
        raise no_manifest(where, error) from None


def manifest_content(folder: Folder) -> tuple[int, dict[str, Any]]:
    """Return the format version and the unchecked content of the manifest of a prepared dataset.

    Raises:
        DataError: It is missing, or holds no object with a version.
    """
    where = folder.where(MANIFEST_NAME)
    raw = folder.read(MANIFEST_NAME, most_bytes=_MOST_BYTES)
    if raw is None:
        raise DataError(
            f"{where}: no such file. Make it: spatialsweep data prepare NAME --from SOURCE --to {folder.shown}"
        )
    try:
        content = from_json(raw)
        if not isinstance(content, dict) or "schema_version" not in content:
            raise ValueError("schema_version is missing")
        version = content.pop("schema_version")
        if isinstance(version, bool) or not isinstance(version, int):
            raise ValueError("schema_version is no whole number")
    except ValueError as error:
        raise no_manifest(where, error) from None
    return version, content


def no_manifest(where: str, error: ValueError) -> DataError:
    """Return the error for a file that is no manifest.

    Args:
        where: Name of the file.
        error: Exception of its validation.
    """
    fault = first_fault(error)
    return DataError(f"{where}: is no manifest of SpatialSweep's ({fault}); prepare the dataset again")


def first_fault(error: ValueError) -> str:
    """Return the first validation error of a record, in one line."""
    if not isinstance(error, ValidationError):
        return one_line(error)
    fault = error.errors(include_url=False, include_context=False)[0]
    message = fault["msg"].partition("\n")[0].removeprefix("Value error, ")
    given = fault["input"]
    shown = f"; got {given!r:.60}" if isinstance(given, str | int | float) else ""
    place = ".".join(map(str, fault["loc"]))
    return f"{place!r:.120}: {message}{shown}" if place else message


def combined_hash(parts: Iterable[str]) -> str:
    """Return one hash of several texts in order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
