"""Batches of images of different sizes: normalised, resized, padded, with targets that follow."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from models.padding import PaddingRecord, is_traced_to_file

__all__ = ["BatchTransform"]

Target = dict[str, Tensor]


class BatchTransform(GeneralizedRCNNTransform):  # type: ignore[misc, unused-ignore]
    """torchvision's transform, which also takes bytes and class maps, leaves crowds out, and notes the padding.

    In training, instances with `iscrowd` are no targets. A `class_map` (H, W) is resized with its image, by nearest
    neighbours.

    Args:
        min_size: Shorter side of the resized images in pixels; in training one of several at random. None for images
            that keep their size.
        max_size: Longest side in pixels.
        fixed_size: Height and width in pixels, which need not keep the ratio; in place of both.
        image_mean: Mean of each channel, of pixels in [0, 1].
        image_std: Standard deviation of each channel.
        size_divisible: Divisor of the padded sides.
        record: Padding of the batch, which is set for each one.
    """

    def __init__(
        self,
        *,
        min_size: int | Sequence[int] | None,
        max_size: int,
        fixed_size: tuple[int, int] | None,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        size_divisible: int,
        record: PaddingRecord | None,
    ) -> None:
        shortest: Any = min_size if min_size is None or isinstance(min_size, int) else tuple(min_size)
        super().__init__(
            shortest or max_size,
            max_size,
            list(image_mean),
            list(image_std),
            size_divisible=size_divisible,
            fixed_size=None if fixed_size is None else (fixed_size[1], fixed_size[0]),
        )
        self.keeps_size = min_size is None and fixed_size is None
        self.record = record

    def forward(
        self, images: list[Tensor], targets: list[Target] | None = None
    ) -> tuple[ImageList, list[Target] | None]:
        """Normalise, resize and pad the images; let the targets follow."""
        if targets is not None and self.training:
            targets = [_without_crowds(target) for target in targets]
        images = [image if image.is_floating_point() else image.float() / 255 for image in images]
        batch, targets = super().forward(images, targets)
        if self.record is not None:
            # whole numbers, also where sizes are traced for a file of one size
            sizes = [(int(height), int(width)) for height, width in batch.image_sizes]
            self.record.set(sizes, (int(batch.tensors.shape[-2]), int(batch.tensors.shape[-1])))
        return batch, targets

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:
        """Pad images to one size and stack them.

        Traced for a file, sizes are constants: torchvision's own way leaves those of all maps unknown, and pooling to a
        grid cannot be written then.
        """
        if not is_traced_to_file():
            batch: Tensor = super().batch_images(images, size_divisible)
            return batch
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        height, width = (-(-max(side) // size_divisible) * size_divisible for side in zip(*sizes, strict=True))
        padded = [
            functional.pad(image, (0, width - w, 0, height - h)) for image, (h, w) in zip(images, sizes, strict=True)
        ]
        return torch.stack(padded)

    def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        """Resize an image and its target."""
        resized = image
        if not self.keeps_size:
            resized, target = super().resize(image, target)
        if target is not None and "class_map" in target:
            size = resized.shape[-2:]
            class_map = functional.interpolate(target["class_map"][None, None].float(), size=size, mode="nearest")
            target = {**target, "class_map": class_map[0, 0].long()}
        return resized, target


def _without_crowds(target: Target) -> Target:
    """Return a target without the instances that are crowds."""
    if "iscrowd" not in target:
        return target
    keep = torch.as_tensor(target["iscrowd"]) == 0
    if bool(keep.all()):
        return target
    of_instances = ("boxes", "labels", "masks", "area", "iscrowd")
    return {key: value[keep] if key in of_instances else value for key, value in target.items()}
