"""Image files without annotations, read by position as the image files and the annotated images of a split are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from orchestrator.data import Indices
from orchestrator.data.decoding import ImageError, decode_image
from orchestrator.data.scenes.tensors import image_tensor
from orchestrator.data.shown_names import shown_name
from orchestrator.errors import DataError

__all__ = ["FileScenes", "ImageFiles"]

_NO_LABEL = -1


class ImageFiles(Sequence[bytes]):
    """Image files on disk.

    Args:
        paths: Paths of the files.
        sizes: Height and width of each image in pixels, int64, (N, 2).

    Attributes:
        labels: -1 for each image, which has no label, int32, (N,).
    """

    def __init__(self, paths: Sequence[Path], sizes: Indices) -> None:
        self.paths, self.sizes = tuple(paths), sizes
        self.labels: npt.NDArray[np.int32] = np.full(len(self.paths), _NO_LABEL, np.int32)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        """Return the bytes of a file.

        Raises:
            DataError: It cannot be read any more.
        """
        path = self.paths[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{shown_name(str(path))}: cannot be read ({error.strerror})") from None

    def pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """Decode an image, uint8, (H, W, 3).

        Raises:
            DataError: It cannot be read or decoded any more.
        """
        try:
            return np.asarray(decode_image(self[index]))
        except ImageError as error:
            raise DataError(f"{shown_name(str(self.paths[index]))}: {error}") from None


class FileScenes(Sequence[tuple[Tensor, dict[str, Any]]]):
    """Image files in the form of annotated images without annotations, see `Scenes`.

    Args:
        files: Image files.

    Attributes:
        sizes: Height and width of each image in pixels, int64, (N, 2).
        objects: Number of objects of each image, int64, (N,): none is annotated.
    """

    def __init__(self, files: ImageFiles) -> None:
        self._files, self.sizes = files, files.sizes
        self.objects: Indices = np.zeros(len(files), np.int64)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:  # type: ignore[override]
        """Decode an image to a tensor, uint8, (3, H, W), with a target that holds its position alone.

        Raises:
            DataError: It cannot be read or decoded any more.
        """
        return image_tensor(self._files.pixels(index)), {"image_id": index}

    def sample(self, index: int, *, masks: bool = True) -> tuple[Tensor, dict[str, Any]]:
        """Decode an image; see `Scenes.sample`."""
        del masks  # there are none
        return self[index]
