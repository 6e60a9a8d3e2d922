"""What a reader of a distributed dataset offers: its splits, and any stretch of their images."""

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
"""The label of an image that has none."""

Pixels = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]

_NAMES_BYTES = 16 << 20
_LONGEST_NAME = 1000
_CONTROLS = ("Cc", "Zl", "Zp")


@dataclass(frozen=True)
class Sample:
    """One image.

    Args:
        image: uint8 pixels, (C, H, W), or the bytes of an image file.
        label: Its class, or `UNLABELLED`.
        name: Its file or position, for messages.
        fault: Why it could not be read; None if it was.
    """

    image: Pixels | bytes
    label: int
    name: str
    fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A dataset as it is distributed, unpacked. Cheap to send to other processes.

    Args:
        root: The folder that holds it.
        image_shape: Channels, height, width of images kept as pixels; None for images kept as files.
        class_names: One per label.
        splits: Images of each split.
        fingerprint: Changes when the files do.
        notices: What was passed over, one line each.
    """

    root: Path
    image_shape: Shape | None
    class_names: tuple[str, ...]
    splits: Mapping[str, int]
    fingerprint: str
    notices: tuple[str, ...] = ()

    @abstractmethod
    def read(self, split: str, start: int, stop: int) -> Iterator[Sample]:
        """The images of a split from one position to before another."""


@dataclass(frozen=True, kw_only=True)
class ArraySource(Source):
    """A dataset that comes as arrays of pixels; a reader says how a split is loaded."""

    @abstractmethod
    def load(self, split: str) -> tuple[Pixels, npt.NDArray[np.int32]]:
        """Images (N, C, H, W), mapped where they can be, and their labels (N,)."""

    def read(self, split: str, start: int, stop: int) -> Iterator[Sample]:
        """The images of a split from one position to before another."""
        images, labels = self.load(split)
        for place in range(start, stop):
            yield Sample(images[place], int(labels[place]), f"{split} {place}")


def locate(root: Path, marker: str) -> Path | None:
    """The folder at most two levels beneath `root` that holds `marker`; the topmost, in order of names."""
    for pattern in ("", "*", "*/*"):
        for folder in sorted(root.glob(pattern)) if pattern else [root]:
            try:
                if folder.name != "__MACOSX" and (folder / marker).exists():
                    return folder
            except OSError as error:  # such as a folder that may not be entered
                raise DataError(f"{folder}: cannot be read ({error.strerror})") from None
    return None


def file_hash(paths: Iterable[Path]) -> str:
    """A hash of the content of files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def read_names(path: Path) -> tuple[str, ...]:
    """Class names, one per line.

    Raises:
        DataError: The file is missing or no text, or its names are not what `checked_names` takes.
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
    """Return class names that a manifest can hold and that nobody takes for one another.

    Args:
        where: Where they come from, for messages.
        names: One per class.

    Raises:
        DataError: There is none, or one is not UTF-8, holds control characters, is too long, or comes twice, be it in
            another spelling of the same letters (NFC and NFD).
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
    """A file of equal records, mapped: (N, record_bytes).

    Raises:
        DataError: The file is cut, empty, or does not hold the number of images asked for.
    """
    size = path.stat().st_size
    if not size or size % record_bytes:
        raise DataError(
            f"{path}: has {size} bytes, which is no whole number of images of {record_bytes}; fetch it again"
        )
    if images is not None and size != images * record_bytes:
        raise DataError(f"{path}: holds {size // record_bytes} images, its labels are {images}; fetch it again")
    return np.memmap(path, np.uint8, "r").reshape(-1, record_bytes)
