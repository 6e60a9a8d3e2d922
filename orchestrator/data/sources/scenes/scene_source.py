"""Interface of the readers of annotated images, and what they share: listings, image files, fingerprints."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.decoding import ImageError
from orchestrator.data.scenes.manifest import FaultGroup
from orchestrator.data.scenes.masks import MaskError
from orchestrator.data.scenes.target import Annotation, SceneTarget
from orchestrator.data.sources.source import UNLABELLED, Sample, Source
from orchestrator.errors import DataError

__all__ = ["ListedImage", "SceneSample", "SceneSource", "listing_fingerprint", "read_image_file", "require_splits"]

_MOST_FILE_BYTES = 256 << 20


@dataclass(frozen=True)
class ListedImage:
    """An image file that a dataset names.

    Args:
        file: Path relative to the root of the dataset.
        image_id: Number of the image in its dataset.
        fault: Reason why it cannot be used; None if it can.
    """

    file: str
    image_id: int
    fault: str | None = None


@dataclass(frozen=True)
class SceneSample(Sample):
    """One image with its annotations.

    Args:
        target: Annotations; None for a faulty image.
    """

    target: SceneTarget | None = None

    @classmethod
    def of(cls, root: Path, listed: ListedImage, target: Callable[[], SceneTarget]) -> SceneSample:
        """Read the file of an image, and its annotations.

        Args:
            root: Root of the dataset.
            listed: Image.
            target: Function that reads the annotations.
        """
        if listed.fault is not None:
            return cls(b"", UNLABELLED, listed.file, listed.fault)
        try:
            return cls(read_image_file(root / listed.file), UNLABELLED, listed.file, None, target())
        except (ImageError, MaskError) as error:
            return cls(b"", UNLABELLED, listed.file, str(error))


@dataclass(frozen=True, kw_only=True)
class SceneSource(Source):
    """A dataset of annotated images in its distributed form.

    Args:
        annotations: Kinds of annotations of every image.
        map_class_names: Names of the classes of the maps.
        faulty_images: Faulty images found so far; others are found when images are read.
        faulty_annotations: Annotations that are left out, by kind of fault.
        grey_maps: True to store maps as PGM files, whose bytes depend on no library.
    """

    annotations: tuple[Annotation, ...]
    map_class_names: tuple[str, ...] = ()
    faulty_images: tuple[ListedImage, ...] = ()
    faulty_annotations: tuple[FaultGroup, ...] = ()
    grey_maps: bool = False

    @abstractmethod
    def read(self, split: str, start: int, stop: int) -> Iterator[SceneSample]:
        """Yield the images of a split from `start` to before `stop`, with their annotations."""


def read_image_file(path: Path) -> bytes:
    """Read a file of bounded size.

    Raises:
        ImageError: It cannot be read, or is larger than any image file.
    """
    try:
        size = path.stat().st_size
        if size > _MOST_FILE_BYTES:
            raise ImageError(f"has {size} bytes, more than an image file has")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from None


def listing_fingerprint(root: Path, splits: Mapping[str, Iterable[str]], *extra: str) -> str:
    """Return a hash of the names and sizes of files; reading every image would take as long as converting it.

    Args:
        root: Root of the dataset.
        splits: Paths relative to the root, by split.
        extra: Further texts that the hash covers.
    """
    digest = hashlib.sha256("\n".join(extra).encode())
    for split, names in splits.items():
        for name in names:
            path = root / name
            size = path.stat().st_size if path.is_file() else -1
            digest.update(f"{split} {name} {size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def require_splits(root: Path, splits: Mapping[str, object]) -> None:
    """Check that a dataset has training and test images.

    Raises:
        DataError: A split is missing.
    """
    missing = [name for name in ("train", "test") if name not in splits]
    if missing:
        raise DataError(f"{root}: has no images for the split '{missing[0]}'")
