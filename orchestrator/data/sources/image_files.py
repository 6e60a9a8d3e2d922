"""Datasets that come as image files: one folder per class, ImageNet among them, and TinyImageNet.

Small images (up to 96 px, all of one size) are kept as pixels, others as the files they are.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from orchestrator.data.sources.source import Sample, Shape, Source, locate, read_names
from orchestrator.errors import DataError, did_you_mean

__all__ = ["open_folders", "open_tiny_imagenet"]

SMALL_SIDE_PX = 96
_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".gif"}
_LOOKED_AT = 16
_SPLITS = ("train", "test", "val", "validation")

Listing = tuple[tuple[str, int], ...]
"""Path beneath the root and label of each image."""


@dataclass(frozen=True, kw_only=True)
class ImageFiles(Source):
    """Image files with their labels.

    Args:
        files: Split to its images, in an order that does not depend on the file system.
    """

    files: Mapping[str, Listing]

    def read(self, split: str, start: int, stop: int) -> Iterator[Sample]:
        """The image files of a split from one position to before another."""
        for name, label in self.files[split][start:stop]:
            yield Sample((self.root / name).read_bytes(), label, name)


def open_folders(root: Path) -> Source:
    """A tree `train/<class>/<image>` beside `test/` or `val/`; without a test split, `val` takes its place.

    Raises:
        DataError: A split is missing or empty, or has a class that the training images do not have.
    """
    base = locate(root, "train")
    if base is None:
        raise DataError(f"{root}: holds no folder train; images are expected as train/<class>/<image>, and test or val")
    found = {name: _class_folders(base / name) for name in _SPLITS if (base / name).is_dir()}
    class_names = tuple(found["train"])
    if not class_names:
        raise DataError(f"{base / 'train'}: holds no folder per class; expected train/<class>/<image>")
    for split, folders in found.items():
        strangers = [name for name in folders if name not in class_names]
        if strangers:
            hint = did_you_mean(strangers[0], class_names[:20])
            raise DataError(f"{base / split}: class '{strangers[0]}' is not among those of train. {hint}")
    listings = {split: _list_classes(base, split, class_names) for split in found}
    return _image_files(base, class_names, _with_test(base, {name: files for name, files in listings.items() if files}))


def open_tiny_imagenet(root: Path) -> Source:
    """TinyImageNet as distributed; its labelled validation images are the test split, for the others have no labels.

    Raises:
        DataError: A part is missing.
    """
    base = locate(root, "wnids.txt")
    if base is None:
        raise DataError(f"{root}: holds no wnids.txt, as the archive tiny-imagenet-200 does")
    class_names = read_names(base / "wnids.txt")
    annotations = base / "val" / "val_annotations.txt"
    if not annotations.is_file():
        raise DataError(f"{annotations}: not there; unpack the archive again")
    label_of = {name: label for label, name in enumerate(class_names)}
    train = tuple(
        (str(path.relative_to(base)), label)
        for label, name in enumerate(class_names)
        for path in _images(base / "train" / name / "images")
    )
    test = []
    for line in annotations.read_text(encoding="utf-8").splitlines():
        image, name, *_ = line.split("\t")
        if name not in label_of:
            raise DataError(f"{annotations}: class '{name}' of {image} is not in wnids.txt")
        test.append((f"val/images/{image}", label_of[name]))
    return _image_files(base, class_names, {"train": train, "test": tuple(sorted(test))})


def _image_files(base: Path, class_names: tuple[str, ...], files: Mapping[str, Listing]) -> ImageFiles:
    for split in ("train", "test"):
        if not files.get(split):
            raise DataError(f"{base}: {split} has no images")
    return ImageFiles(
        root=base,
        image_shape=_common_shape([base / name for name, _ in files["train"]]),
        class_names=class_names,
        splits={split: len(listing) for split, listing in files.items()},
        fingerprint=_fingerprint(base, class_names, files),
        files=files,
    )


def _with_test(base: Path, listings: dict[str, Listing]) -> dict[str, Listing]:
    validation = listings.pop("val", None) or listings.pop("validation", None)
    if validation and "test" in listings:
        return {**listings, "validation": validation}
    if validation:
        return {**listings, "test": validation}
    if "test" not in listings:
        raise DataError(f"{base}: has neither images in test/<class> nor in val/<class>; a dataset needs a test split")
    return listings


def _class_folders(split: Path) -> list[str]:
    return sorted(path.name for path in split.iterdir() if path.is_dir() and not path.name.startswith("."))


def _list_classes(base: Path, split: str, class_names: Sequence[str]) -> Listing:
    return tuple(
        (str(path.relative_to(base)), label)
        for label, name in enumerate(class_names)
        for path in _images(base / split / name)
    )


def _images(folder: Path) -> list[Path]:
    """Image files at any depth, by name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS and path.is_file())


def _common_shape(paths: Sequence[Path]) -> Shape | None:
    """The shape of small images, from a look at a few headers across the split; None for large or mixed ones."""
    step = max(1, len(paths) // _LOOKED_AT)
    sizes = {size for path in itertools.islice(paths, None, None, step) if (size := _size(path))}
    if len(sizes) != 1:
        return None
    width, height = sizes.pop()
    return (3, height, width) if max(width, height) <= SMALL_SIDE_PX else None


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            return image.size
    except OSError:  # what Pillow raises for bytes that are no image
        return None


def _fingerprint(base: Path, class_names: Iterable[str], files: Mapping[str, Listing]) -> str:
    """Of all names, labels and sizes; reading every image would take as long as converting it."""
    digest = hashlib.sha256("\n".join(class_names).encode())
    for split, listing in files.items():
        for name, label in listing:
            path = base / name
            size = path.stat().st_size if path.is_file() else -1
            digest.update(f"{split} {name} {label} {size}\n".encode())
    return digest.hexdigest()[:16]
