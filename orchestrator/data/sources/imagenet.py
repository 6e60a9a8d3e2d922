"""ImageNet-1K as distributed by image-net.org: an archive of a thousand archives, read in place.

The archives of images are not compressed, so an image is a stretch of bytes of one large file; nothing is unpacked.
The validation images are the test split, as in all papers: the labels of the test images were never published.

Source: O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, 2015; formats as in its kit.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from orchestrator.data.shown_names import one_line, shown_name
from orchestrator.data.sources.archive_members import SoundHeaders
from orchestrator.data.sources.archives import PARSER_FAULTS, check_compression
from orchestrator.data.sources.image_files import open_folders
from orchestrator.data.sources.source import Sample, Source, checked_names, locate
from orchestrator.errors import DataError

__all__ = ["open_imagenet"]

TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
KITS = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12")
_KIT_FILE_BYTES = 64 << 20
_TRUTH, _META = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"


class Stretch(NamedTuple):
    """Position of an image in its archive, in bytes, with its label and name."""

    offset: int
    size: int
    label: int
    name: str


@dataclass(frozen=True, kw_only=True)
class ImageNetArchives(Source):
    """The two archives of images.

    Args:
        stretches: Images of each split, in order.
        archives: Name of the archive of each split.
    """

    stretches: Mapping[str, tuple[Stretch, ...]]
    archives: Mapping[str, str]

    def read(self, split: str, start: int, stop: int) -> Iterator[Sample]:
        """Yield the image files of a split from `start` to before `stop`."""
        with (self.root / self.archives[split]).open("rb") as archive:
            for stretch in self.stretches[split][start:stop]:
                archive.seek(stretch.offset)
                yield Sample(archive.read(stretch.size), stretch.label, stretch.name)


def open_imagenet(root: Path) -> Source:
    """Open ImageNet in a folder: the archives as downloaded, or a tree of one folder per class.

    Raises:
        DataError: Neither is present, or a part is missing or cut.
    """
    folder = locate(root, TRAIN)
    if folder is None:
        return open_folders(root)
    if not (folder / VALIDATION).is_file():
        raise DataError(f"{folder / VALIDATION}: not there; it lies beside {TRAIN}")
    ids, truth = _development_kit(folder)
    class_names = checked_names(folder, sorted(ids.values()))
    label_of = {name: label for label, name in enumerate(class_names)}
    try:
        train = tuple(_nested(folder / TRAIN, label_of))
        validation = tuple(_flat(folder / VALIDATION, [label_of[ids[number]] for number in truth]))
    except DataError:
        raise
    except PARSER_FAULTS as error:
        raise DataError(f"{folder}: an archive of images cannot be read ({one_line(error)}); fetch it again") from None
    stretches = {"train": train, "test": validation}
    return ImageNetArchives(
        root=folder,
        image_shape=None,
        class_names=class_names,
        splits={split: len(listing) for split, listing in stretches.items()},
        fingerprint=hashlib.sha256(repr((class_names, stretches)).encode()).hexdigest()[:16],
        stretches=stretches,
        archives={"train": TRAIN, "test": VALIDATION},
    )


def _nested(path: Path, label_of: Mapping[str, int]) -> Iterator[Stretch]:
    """Yield the images of the archives within an archive, by class and name."""
    found = []
    size = path.stat().st_size
    with path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:", tarinfo=SoundHeaders) as outer:
        for inner in _regular(outer, path, size):
            name = Path(inner.name).stem
            if name not in label_of:
                raise DataError(f"{path}: holds {inner.name}, which is no class of the development kit")
            window = _Window(raw, inner.offset_data, inner.size)
            with tarfile.open(fileobj=window, mode="r:", tarinfo=SoundHeaders) as tar:
                for member in _regular(tar, path, inner.size):
                    offset = inner.offset_data + member.offset_data
                    found.append(Stretch(offset, member.size, label_of[name], f"{name}/{member.name}"))
    missing = set(range(len(label_of))) - {stretch.label for stretch in found}
    if missing:
        raise DataError(f"{path}: {len(missing)} of {len(label_of)} classes are not there; fetch it again")
    yield from sorted(found, key=lambda stretch: (stretch.label, stretch.name))


def _flat(path: Path, labels: list[int]) -> Iterator[Stretch]:
    """Yield the validation images by name, which is the order of their labels."""
    with tarfile.open(path, "r:", tarinfo=SoundHeaders) as tar:
        members = sorted(_regular(tar, path, path.stat().st_size), key=lambda member: member.name)
    if len(members) != len(labels):
        raise DataError(f"{path}: has {len(members)} images, the development kit {len(labels)} labels; fetch it again")
    for member, label in zip(members, labels, strict=True):
        yield Stretch(member.offset_data, member.size, label, member.name)


def _regular(tar: tarfile.TarFile, path: Path, size: int) -> Iterator[tarfile.TarInfo]:
    """Yield the regular files of an archive; a header that points outside the archive is an error."""
    previous = -1
    for member in tar:
        if member.offset <= previous:  # a negative size would loop endlessly
            raise DataError(f"{path}: a header leads backwards; fetch it again")
        previous = member.offset
        if member.isdir():
            continue
        shown = shown_name(member.name)
        if not member.isreg() or member.issparse():
            raise DataError(f"{path}: holds {shown}, which is no regular file; fetch it again")
        if not 0 <= member.size <= size - member.offset_data:
            raise DataError(f"{path}: is cut within {shown}; fetch it again")
        yield member


def _development_kit(folder: Path) -> tuple[dict[int, str], list[int]]:
    """Return the class name of each challenge number, and the number of each validation image."""
    from scipy.io import loadmat

    kit = next((folder / name for name in KITS if (folder / name).exists()), None)
    if kit is None:
        raise DataError(f"{folder}: {KITS[0]} not there; it holds the labels of the validation images")
    if kit.is_file():
        check_compression(kit)
    try:
        synsets = loadmat(io.BytesIO(_kit_file(kit, _META)), squeeze_me=True)["synsets"]
        ids = {
            int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if not int(row["num_children"])
        }  # the others are unions of these
        truth = [int(line) for line in _kit_file(kit, _TRUTH).split()]
    except DataError:
        raise
    except PARSER_FAULTS as error:  # scipy's reader of .mat files raises the same kinds
        raise DataError(f"{kit}: is no development kit ({one_line(error)}); fetch it again") from None
    unknown = sorted(set(truth) - set(ids))
    if unknown:
        raise DataError(f"{kit}: a validation image has class {unknown[0]}, which is none; fetch it again")
    return ids, truth


def _kit_file(kit: Path, name: str) -> bytes:
    if kit.is_dir():
        with (kit / name).open("rb") as file:
            return _small(kit, name, file)
    with tarfile.open(kit) as tar:
        member = tar.getmember(f"{KITS[1]}/{name}")
        content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
        if content is None:
            raise DataError(f"{kit}: {name} is no regular file; fetch it again")
        return _small(kit, name, content)


def _small(kit: Path, name: str, file: IO[bytes]) -> bytes:
    content = file.read(_KIT_FILE_BYTES + 1)
    if len(content) > _KIT_FILE_BYTES:
        raise DataError(f"{kit}: {name} has more than {_KIT_FILE_BYTES} bytes; fetch it again")
    return content


class _Window(io.RawIOBase):
    """A stretch of a file as a file of its own, so that an inner archive ends where its stretch does."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._start, self._size, self._place = file, start, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position within the stretch."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move within the stretch."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, or up to the end of the stretch."""
        left = max(0, self._size - self._place)
        wanted = left if size is None or size < 0 else min(size, left)
        self._file.seek(self._start + self._place)
        content = self._file.read(wanted)
        self._place += len(content)
        return content
