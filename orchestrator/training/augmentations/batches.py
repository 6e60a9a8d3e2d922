"""Batches of images of different sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from orchestrator.errors import DataError
from orchestrator.training.augmentations.geometry import padded_size
from orchestrator.training.augmentations.samples import IGNORED, Target

__all__ = ["PaddedBatch", "padded_batch", "padded_class_maps"]


class PaddedBatch(NamedTuple):
    """Images of a batch, padded at the right and at the bottom.

    Args:
        images: Pixels, (B, 3, H, W), zero where padded.
        padding: True where an image is padded, bool (B, H, W).
        targets: Annotations of each image.
    """

    images: Tensor
    padding: Tensor
    targets: list[Target]

    def sizes(self) -> list[tuple[int, int]]:
        """Return height and width of each image without its padding."""
        inside = ~self.padding
        heights, widths = inside[:, :, 0].sum(dim=1).tolist(), inside[:, 0, :].sum(dim=1).tolist()
        return list(zip(heights, widths, strict=True))

    def unpadded(self) -> list[Tensor]:
        """Return views of the images without their padding, as detectors take them: (3, h, w) each."""
        pairs = zip(self.images, self.sizes(), strict=True)
        return [image[:, :height, :width] for image, (height, width) in pairs]


def padded_batch(samples: Sequence[tuple[Tensor, Target]], *, multiple: int = 32) -> PaddedBatch:
    """Collate samples into a batch whose height and width are the largest ones, rounded up.

    Args:
        samples: Images, (3, h, w), and their targets; at least one.
        multiple: Number of pixels that divides height and width of the batch.

    Raises:
        DataError: The images have different types.
    """
    images = [image for image, _ in samples]
    types = {image.dtype for image in images}
    if len(types) > 1:
        raise DataError(f"images of a batch: got {', '.join(sorted(map(str, types)))}; all have one type")
    largest = max(image.shape[-2] for image in images), max(image.shape[-1] for image in images)
    height, width = padded_size(largest, multiple)
    batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    padding = torch.ones(len(images), height, width, dtype=torch.bool)
    for place, image in enumerate(images):
        batch[place, :, : image.shape[-2], : image.shape[-1]] = image
        padding[place, : image.shape[-2], : image.shape[-1]] = False
    return PaddedBatch(batch, padding, [target for _, target in samples])


def padded_class_maps(targets: Sequence[Target], size: tuple[int, int]) -> Tensor:
    """Return the class maps of a batch in one tensor, int64 (B, H, W), 255 where padded.

    Args:
        targets: Targets with `class_map`, at most of the size.
        size: Height and width of the batch.
    """
    first: Tensor = targets[0]["class_map"]
    maps = torch.full((len(targets), *size), IGNORED, dtype=torch.int64, device=first.device)
    for row, target in zip(maps, targets, strict=True):
        height, width = target["class_map"].shape
        row[:height, :width] = target["class_map"]
    return maps
