"""A dataset as training reads it: its labelled splits, class names and pixel statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.data.encoded_images import EncodedImages
from orchestrator.data.stacked_images import StackedImages

__all__ = ["ImageDataset", "PixelImages"]


@dataclass(frozen=True)
class PixelImages:
    """Small images of one split, memory-mapped.

    Args:
        images: Pixels, uint8, (N, C, H, W); a read-only view of one shard, or of several.
        labels: Classes, int32, (N,).
    """

    images: npt.NDArray[np.uint8] | StackedImages
    labels: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageDataset:
    """An opened dataset.

    Args:
        splits: Images of each labelled split, at least `train` and `test`: pixels, or image files. Splits of image
            files are opened when they are first read.
        class_names: Names of the classes, one per label.
        mean: Mean per channel of the training images, scaled to [0, 1].
        std: Population deviation per channel of the training images, scaled to [0, 1].
        content_hash: Hash of all images, labels and class names.
    """

    splits: Mapping[str, PixelImages | EncodedImages]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    content_hash: str
