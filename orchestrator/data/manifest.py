"""What a prepared dataset says of itself: `manifest.json` beside its shards.

It is written last: without a manifest there is no dataset. One that is read may come from anybody: every field is
checked here before it is used, and `manifest_checks` holds the fields against each other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from orchestrator.data.shown_names import one_line
from orchestrator.data.storage import Folder
from orchestrator.errors import DataError
from orchestrator.files.contained_paths import plain_name

__all__ = ["MANIFEST_NAME", "STRICT", "BadImage", "Manifest", "Shard", "Split", "combined_hash", "read_manifest"]

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1
_MOST_BYTES = 64 << 20

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""How the records in a dataset's folder are read: no field is converted, none is unknown."""

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
        image: Its file, or its position in one.
        reason: Why.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
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

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    file: ShardName
    images: Count
    bytes: Bytes
    content_hash: ContentHash


@dataclass(frozen=True)
class Split:
    """One split of a dataset.

    Args:
        images: In all its shards.
        per_class: Images of each class, in the order of the class names; empty for images without labels.
        shards: In order.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    images: Count
    per_class: tuple[Count, ...]
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
        """The content of `manifest.json`."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=1) + "\n"


_MANIFEST = TypeAdapter(Manifest)


def read_manifest(folder: Folder) -> Manifest:
    """Read the manifest of a prepared dataset.

    Raises:
        DataError: There is none, or it was not written by this version.
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
        if version != SCHEMA_VERSION:
            raise DataError(f"{where}: has format {version}, this version reads {SCHEMA_VERSION}; prepare it again")
        return _MANIFEST.validate_json(to_json(content))
    except DataError:
        raise
    except ValueError as error:
        reason = first_fault(error)
        raise DataError(f"{where}: is no manifest of SpatialSweep's ({reason}); prepare the dataset again") from None


def first_fault(error: ValueError) -> str:
    """Return the first fault of a record that was read, in one line."""
    if not isinstance(error, ValidationError):
        return one_line(error)
    fault = error.errors(include_url=False, include_context=False)[0]
    message = fault["msg"].partition("\n")[0].removeprefix("Value error, ")
    given = fault["input"]
    shown = f"; got {given!r:.60}" if isinstance(given, str | int | float) else ""
    place = ".".join(map(str, fault["loc"]))
    return f"{place!r:.120}: {message}{shown}" if place else message


def combined_hash(parts: Iterable[str]) -> str:
    """One hash of several texts in order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
