"""A dataset's splits as tensors on a worker's device, ready to be indexed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.data import ArrowImages, ImageSplit, split_validation
from orchestrator.training.images.decoded_images import DecodedSplit
from orchestrator.training.workers import Workers

_EVALUATION_BATCH = 512


@dataclass(frozen=True)
class DeviceSplit:
    """Images of one split on one device.

    Args:
        images: uint8, (N, C, H, W).
        labels: int64, (N,).
        mean: Per channel, (1, C, 1, 1), of pixels in 0..255.
        std: Likewise.
    """

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> int:
        """Height, in pixels."""
        return self.images.shape[2]

    @property
    def in_chans(self) -> int:
        """Channels."""
        return self.images.shape[1]

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float, in one new tensor."""
        return pixels.float().sub_(self.mean).div_(self.std)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised float images (B, C, H, W) and their labels (B,)."""
        return self.normalise(self.images[index]), self.labels[index]

    def share(self, workers: Workers) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's part of the split, in batches; over all ranks every image comes once."""
        mine = torch.tensor_split(torch.arange(len(self), device=self.labels.device), workers.world_size)[workers.rank]
        for index in mine.split(_EVALUATION_BATCH):
            yield self.batch(index)


@dataclass(frozen=True)
class DeviceImages:
    """The three splits a trial uses, on the device or decoded when needed, and what a network must know of them.

    Args:
        train: What is left of the training images.
        validation: What was held out; decides between epochs and between trials.
        test: Read once, at the end of a trial.
        class_names: One per label.
    """

    train: DeviceSplit | DecodedSplit
    validation: DeviceSplit | DecodedSplit
    test: DeviceSplit | DecodedSplit
    class_names: tuple[str, ...]

    @property
    def image_size(self) -> int:
        """Height of the images, in pixels."""
        return self.train.image_size

    @property
    def in_chans(self) -> int:
        """Channels of the images."""
        return self.train.in_chans


def place_images(
    source: ArrowImages, device: torch.device, *, validation_fraction: float, split_seed: int
) -> DeviceImages:
    """Copies a mapped dataset to a device, once per lane.

    Args:
        source: The mapped file.
        device: Target.
        validation_fraction: Share of the training images held out.
        split_seed: Seed of that draw.
    """
    train = source.splits["train"]
    kept, held_out = split_validation(train.labels, validation_fraction, split_seed)

    def place(split: ImageSplit, index: np.ndarray | None = None) -> DeviceSplit:
        images, labels = split.images, split.labels
        if index is not None:
            images, labels = images[index], labels[index]
        scale = torch.tensor([source.mean, source.std], device=device).view(2, 1, -1, 1, 1) * 255
        return DeviceSplit(
            images=torch.from_numpy(np.array(images)).to(device),
            labels=torch.from_numpy(np.array(labels)).to(device).long(),
            mean=scale[0],
            std=scale[1],
        )

    return DeviceImages(place(train, kept), place(train, held_out), place(source.splits["test"]), source.class_names)
