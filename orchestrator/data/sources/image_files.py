"""Datasets of image files: one folder per class, such as ImageNet, and TinyImageNet.

Small square images (up to 96 px, all of one size) are kept as pixels, others as files, which training crops to
squares.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.decoding import ImageError, image_size
from orchestrator.data.manifest_checks import class_faults
from orchestrator.data.shown_names import one_line, shown_name
from orchestrator.data.sources.image_listing import PassedOver, image_paths, subfolders
from orchestrator.data.sources.source import Sample, Shape, Source, checked_names, locate, read_names
from orchestrator.errors import DataError, UnsafePathError, did_you_mean
from orchestrator.files.contained_paths import plain_name

__all__ = ["open_folders", "open_tiny_imagenet"]

SMALL_SIDE_PX = 96
_SAMPLED = 16
_MOST_FILE_BYTES = 256 << 20
_VALIDATION = ("val", "validation", "valid")
_SPLITS = ("train", "test", *_VALIDATION)

Listing = tuple[tuple[str, int], ...]
"""Path relative to the root, and label, of each image."""


@dataclass(frozen=True, kw_only=True)
class ImageFiles(Source):
    """Image files with their labels.

    Args:
        files: Images of each split, in an order that does not depend on the file system.
    """

    files: Mapping[str, Listing]

    def read(self, split: str, start: int, stop: int) -> Iterator[Sample]:
        """Yield the image files of a split from `start` to before `stop`."""
        for name, label in self.files[split][start:stop]:
            path = self.root / name
            try:
                size = path.stat().st_size
                content = b"" if size > _MOST_FILE_BYTES else path.read_bytes()
                fault = f"has {size} bytes, more than an image file has" if size > _MOST_FILE_BYTES else None
            except OSError as error:
                content, fault = b"", f"cannot be read ({error.strerror})"
            yield Sample(content, label, name, fault)


def open_folders(root: Path) -> Source:
    """Open a tree `train/<class>/<image>` with `test/` or `val/`; without a test split, `val` takes its place.

    Raises:
        DataError: A split is missing or empty, or has a class that the training images do not have, or a class has too
            few images to train on.
    """
    base = locate(root, "train")
    if base is None:
        raise DataError(f"{root}: holds no folder train; images are expected as train/<class>/<image>, and test or val")
    passed_over = PassedOver(base)
    beside = subfolders(base, passed_over, "files beside the folders of splits")
    for name in beside:
        if name not in _SPLITS:
            passed_over.note("folders that are no split (train, test, val, valid or validation)", base / name)
    found = {
        name: subfolders(base / name, passed_over, "files beside the folders of classes")
        for name in _SPLITS
        if (base / name).is_dir()
    }
    if not found.get("train"):
        raise DataError(f"{base / 'train'}: holds no folder per class; expected train/<class>/<image>")
    class_names = checked_names(base / "train", found["train"])
    for split, folders in found.items():
        _check_classes(base / split, folders, class_names)
    listings = {split: _list_classes(base, split, class_names, passed_over) for split in found}
    with_test = _with_test(base, {name: files for name, files in listings.items() if files}, passed_over)
    return _image_files(base, class_names, with_test, passed_over)


def open_tiny_imagenet(root: Path) -> Source:
    """Open TinyImageNet; its validation images are the test split, since its test images have no labels.

    Raises:
        DataError: A part is missing, or names a file outside the dataset.
    """
    base = locate(root, "wnids.txt")
    if base is None:
        raise DataError(f"{root}: holds no wnids.txt, as the archive tiny-imagenet-200 does")
    class_names = tuple(_plain(base / "wnids.txt", name) for name in read_names(base / "wnids.txt"))
    annotations = base / "val" / "val_annotations.txt"
    if not annotations.is_file():
        raise DataError(f"{annotations}: not there; unpack the archive again")
    label_of = {name: label for label, name in enumerate(class_names)}
    passed_over = PassedOver(base)
    train = tuple(
        (str(path.relative_to(base)), label)
        for label, name in enumerate(class_names)
        for path in image_paths(base / "train" / name / "images", passed_over)
    )
    test = []
    for image, name in _annotated(annotations):
        if name not in label_of:
            raise DataError(f"{annotations}: class '{shown_name(name)}' of {shown_name(image)} is not in wnids.txt")
        test.append((f"val/images/{_plain(annotations, image)}", label_of[name]))
    return _image_files(base, class_names, {"train": train, "test": tuple(sorted(test))}, passed_over)


def _annotated(path: Path) -> Iterator[tuple[str, str]]:
    """Yield image and class of each line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)}); unpack the archive again") from None
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t")
        if len(fields) < 2:
            raise DataError(f"{path}: line {number} does not name an image and its class; unpack the archive again")
        yield fields[0], fields[1]


def _plain(where: Path, name: str) -> str:
    try:
        return plain_name(name)
    except UnsafePathError as error:
        raise DataError(f"{where}: {error}; unpack the archive again") from None


def _image_files(
    base: Path, class_names: tuple[str, ...], files: Mapping[str, Listing], passed_over: PassedOver
) -> ImageFiles:
    notices = passed_over.lines()
    told = f". {notices[0]}" if notices else ""
    for split in ("train", "test"):
        if not files.get(split):
            raise DataError(f"{base}: {split} has no images{told}")
    counts = {split: Counter(label for _, label in files[split]) for split in ("train", "test")}
    faults = [
        fault
        for split, found in counts.items()
        for fault in class_faults(split, [found[label] for label in range(len(class_names))], class_names)
    ]
    if faults:
        raise DataError(f"{base}: {'; '.join(faults)}{told}")
    return ImageFiles(
        root=base,
        image_shape=_common_shape([base / name for name, _ in files["train"]]),
        class_names=class_names,
        splits={split: len(listing) for split, listing in files.items()},
        fingerprint=_fingerprint(base, class_names, files),
        notices=notices,
        files=files,
    )


def _check_classes(split: Path, folders: Sequence[str], class_names: Sequence[str]) -> None:
    """Check that the training images have every class of a split."""
    missing = [name for name in folders if name not in class_names]
    if not missing:
        return
    letters = unicodedata.normalize("NFC", missing[0])
    if letters in {unicodedata.normalize("NFC", name) for name in class_names}:
        hint = "Its letters are spelt otherwise there (NFC and NFD); rename it"
    else:
        hint = did_you_mean(missing[0], class_names[:20])
    raise DataError(f"{split}: class '{shown_name(missing[0])}' is not among those of train. {hint}")


def _with_test(base: Path, listings: dict[str, Listing], passed_over: PassedOver) -> dict[str, Listing]:
    found = [name for name in _VALIDATION if name in listings]
    if len(found) > 1:
        raise DataError(f"{base}: has images both in {found[0]} and in {found[1]}; keep one of these folders")
    validation = listings.pop(found[0]) if found else None
    if validation and "test" in listings:
        return {**listings, "validation": validation}
    if validation:
        return {**listings, "test": validation}
    if "test" not in listings:
        told = "".join(f". {line}" for line in passed_over.lines()[:1])
        raise DataError(
            f"{base}: has neither images in test/<class> nor in val/<class>; a dataset needs a test split{told}"
        )
    return listings


def _list_classes(base: Path, split: str, class_names: Sequence[str], passed_over: PassedOver) -> Listing:
    return tuple(
        (str(path.relative_to(base)), label)
        for label, name in enumerate(class_names)
        for path in image_paths(base / split / name, passed_over)
    )


def _common_shape(paths: Sequence[Path]) -> Shape | None:
    """Return the shape of small square images, from the headers of a few images; None for all others."""
    step = max(1, len(paths) // _SAMPLED)
    sizes = {size for path in itertools.islice(paths, None, None, step) if (size := _size(path))}
    if len(sizes) != 1:
        return None
    width, height = sizes.pop()
    return (3, height, width) if width == height <= SMALL_SIDE_PX else None


def _size(path: Path) -> tuple[int, int] | None:
    """Return width and height; None for an unreadable image, which its conversion reports."""
    try:
        with path.open("rb") as file:
            return image_size(file)
    except (OSError, ImageError):
        return None


def _fingerprint(base: Path, class_names: Iterable[str], files: Mapping[str, Listing]) -> str:
    """Return a hash of all names, labels and sizes; reading every image would take as long as converting it."""
    digest = hashlib.sha256("\n".join(class_names).encode())
    for split, listing in files.items():
        for name, label in listing:
            path = base / name
            size = path.stat().st_size if path.is_file() else -1
            digest.update(f"{split} {name} {label} {size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
