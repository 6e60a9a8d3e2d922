"""Interface of the readers of distributed datasets, and checks that they share."""

from __future__ import annotations

import hashlib
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orchestrator.data.shown_names import is_utf8, one_line, shown_name
from orchestrator.errors import DataError

__all__ = [
    "UNLABELLED",
    "ArraySource",
    "Pixels",
    "Sample",
    "Source",
    "checked_names",
    "file_hash",
    "locate",
    "read_names",
    "whole_records",
]

UNLABELLED = -1
"""Label of an image without one."""

Pixels = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]

_NAMES_BYTES = 16 << 20
_LONGEST_NAME = 1000
_CONTROLS = ("Cc", "Zl", "Zp")


@dataclass(frozen=True)
class Sample:
    """One image.

    Args:
        image: Pixels, uint8, (C, H, W), or the bytes of an image file.
        label: Class, or `UNLABELLED`.
        name: File or position of the image, for messages.
        fault: Reason why it could not be read; None if it could.
    """

    image: Pixels | bytes
    label: int
    name: str
    fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """An unpacked dataset in its distributed form. Cheap to send to other processes.

    Args:
        root: Folder of the dataset.
        image_shape: Channels, height, width of images kept as pixels; None for images kept as files.
        class_names: Names of the classes, one per label.
        splits: Number of images of each split.
        fingerprint: Hash that changes when the files do.
        notices: Notices about ignored files, one line each.
        earlier_fingerprints: Fingerprints that earlier versions gave to the same files.
    """

    root: Path
    image_shape: Shape | None
    class_names: tuple[str, ...]
    splits: Mapping[str, int]
    fingerprint: str
    notices: tuple[str, ...] = ()
    earlier_fingerprints: tuple[str, ...] = ()

    @abstractmethod
    def read(self, split: str, start: int, stop: int) -> Iterator[Sample]:
        """Yield the images of a split from `start` to before `stop`."""


@dataclass(frozen=True, kw_only=True)
class ArraySource(Source):
    """A dataset of pixel arrays; subclasses define how a split is loaded."""

    @abstractmethod
    def load(self, split: str) -> tuple[Pixels, npt.NDArray[np.int32]]:
        """Return images (N, C, H, W), mapped where possible, and their labels (N,)."""

    def read(self, split: str, start: int, stop: int) -> Iterator[Sample]:
        """Yield the images of a split from `start` to before `stop`."""
        images, labels = self.load(split)
        for place in range(start, stop):
            yield Sample(images[place], int(labels[place]), f"{split} {place}")


def locate(root: Path, marker: str) -> Path | None:
    """Return the topmost folder, at most two levels below `root` and first by name, that holds `marker`; else None."""
    for pattern in ("", "*", "*/*"):
        for folder in sorted(root.glob(pattern)) if pattern else [root]:
            try:
                if folder.name != "__MACOSX" and (folder / marker).exists():
                    return folder
            except OSError as error:  # such as a folder that may not be entered
                raise DataError(f"{folder}: cannot be read ({error.strerror})") from None
    return None


def file_hash(paths: Iterable[Path]) -> str:
    """Return a hash of the content of files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def read_names(path: Path) -> tuple[str, ...]:
    """Read class names, one per line.

    Raises:
        DataError: The file is missing or not text, or `checked_names` rejects a name.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_NAMES_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as class names ({one_line(error)}); fetch it again") from None
    if len(content) > _NAMES_BYTES:
        raise DataError(f"{path}: has more than {_NAMES_BYTES} bytes, which no list of class names has")
    return checked_names(path, [line.strip() for line in text.splitlines() if line.strip()])


def checked_names(where: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Check class names: they fit into a manifest and are distinguishable.

    Args:
        where: Origin of the names, for messages.
        names: Names of the classes, one per class.

    Raises:
        DataError: There is no name, or a name is not UTF-8, holds control characters, is too long, or occurs twice,
            including other spellings of the same letters (NFC and NFD).
    """
    if not names:
        raise DataError(f"{where}: names no class")
    seen: dict[str, str] = {}
    for name in names:
        if not is_utf8(name):
            raise DataError(f"{where}: class {shown_name(name)} is not written in UTF-8; rename it")
        if len(name) > _LONGEST_NAME or any(unicodedata.category(character) in _CONTROLS for character in name):
            raise DataError(f"{where}: class {shown_name(name)} is too long or holds control characters; rename it")
        letters = unicodedata.normalize("NFC", name)
        if letters in seen:
            how = "comes twice" if seen[letters] == name else "comes in two spellings of the same letters (NFC and NFD)"
            raise DataError(f"{where}: class {shown_name(name)} {how}; join or rename them")
        seen[letters] = name
    return tuple(names)


def whole_records(path: Path, record_bytes: int, images: int | None = None) -> Pixels:
    """Map a file of equal records as (N, record_bytes).

    Args:
        path: Path of the file.
        record_bytes: Size of a record in bytes.
        images: Expected number of records; None accepts any.

    Raises:
        DataError: The file is cut, empty, or has another number of records.
    """
    size = path.stat().st_size
    if not size or size % record_bytes:
        raise DataError(
            f"{path}: has {size} bytes, which is no whole number of images of {record_bytes}; fetch it again"
        )
    if images is not None and size != images * record_bytes:
        raise DataError(f"{path}: holds {size // record_bytes} images, its labels are {images}; fetch it again")
    return np.memmap(path, np.uint8, "r").reshape(-1, record_bytes)
