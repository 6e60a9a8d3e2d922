"""Image files that a user names: listed, and decoded once as a check, before a network is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.data.decoding import ENDINGS, ImageError, decode_image
from orchestrator.data.shown_names import shown_name
from orchestrator.data.sources.image_listing import PassedOver, image_paths
from orchestrator.errors import DataError

if TYPE_CHECKING:
    from orchestrator.training.images.image_files import ImageFiles

__all__ = ["find_files"]

_MOST_BYTES = 2**28
_MOST_NAMED = 20


def find_files(given: Sequence[str | Path]) -> tuple[ImageFiles, tuple[str, ...]]:
    """Return image files, and a line for each kind of other files in the folders among them.

    Args:
        given: Image files, and folders of image files at any depth; a file that is named twice is read once.

    Raises:
        DataError: Something is missing, cannot be read, or is no image of an accepted format and size; the text names
            all of them.
    """
    from orchestrator.training.images.image_files import ImageFiles

    faults: list[str] = []
    notes: list[str] = []
    paths: dict[Path, Path] = {}
    for each in map(Path, given):
        try:
            found = _listed_images(each, notes)
        except (DataError, OSError) as error:
            faults.append(_fault(each, error))
            continue
        for path in found:
            paths.setdefault(path.resolve(), path)
    sizes = []
    for path in paths.values():
        try:
            sizes.append(_size(path))
        except (ImageError, OSError) as error:
            faults.append(_fault(path, error))
    if faults:
        raise DataError(_in_lines(faults))
    if not paths:
        raise DataError("predict: no images are given; name image files, or folders of them")
    return ImageFiles(tuple(paths.values()), np.asarray(sizes, np.int64)), tuple(notes)


def _listed_images(given: Path, notes: list[str]) -> list[Path]:
    """Return an image file, or those of a folder, and note other files of the folder.

    Raises:
        DataError: There is no such file or folder, or no image file in it.
        OSError: It cannot be read.
    """
    if not given.is_dir():
        if given.is_file():
            return [given]
        raise DataError("no such file or folder")
    passed_over = PassedOver(given)
    found = image_paths(given, passed_over)
    notes.extend(passed_over.lines())
    if not found:
        raise DataError(f"holds no image files ({', '.join(sorted(ENDINGS))})")
    return found


def _fault(path: Path, error: Exception) -> str:
    reason = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
    return f"{shown_name(str(path))}: {reason}"


def _size(path: Path) -> tuple[int, int]:
    """Return height and width of an image file, which is decoded as a check.

    Raises:
        ImageError: It is too large, or no image.
        OSError: It cannot be read.
    """
    length = path.stat().st_size
    if length > _MOST_BYTES:
        raise ImageError(f"has {length >> 20} MiB, more than {_MOST_BYTES >> 20}")
    picture = decode_image(path.read_bytes())
    return picture.height, picture.width


def _in_lines(faults: Sequence[str]) -> str:
    if len(faults) == 1:
        return faults[0]
    more = [f"and {len(faults) - _MOST_NAMED} more"] if len(faults) > _MOST_NAMED else []
    return "\n  ".join([f"{len(faults)} of the images cannot be used:", *faults[:_MOST_NAMED], *more])
