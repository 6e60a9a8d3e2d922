"""Splits of a dataset as tensors on a worker's device, ready to be indexed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from orchestrator.config.sections.dataset import DatasetConfig, TestTimeAugmentation
from orchestrator.data import ImageDataset, Indices, PixelImages
from orchestrator.data.scenes import SceneDataset
from orchestrator.training.images.split import Split
from orchestrator.training.workers import Workers

_EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Normalisation:
    """Mean and deviation of every channel, for pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, config: DatasetConfig, source: ImageDataset | SceneDataset) -> Normalisation:
        """Return the normalisation that the section `dataset` sets; without one, that of the training images."""
        if config.mean is not None and config.std is not None:
            return cls(config.mean, config.std)
        if config.normalization == "imagenet":
            return cls(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        return cls(source.mean, source.std)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return mean and deviation for pixels in 0..255, (1, C, 1, 1), on a device."""
        mean, std = torch.tensor([self.mean, self.std], device=device).view(2, 1, -1, 1, 1) * 255
        return mean, std


@dataclass(frozen=True)
class DeviceSplit:
    """Images of one split on one device.

    Args:
        images: Pixels, uint8, (N, C, H, W).
        labels: Classes, int64, (N,).
        mean: Mean per channel of pixels in 0..255, (1, C, 1, 1).
        std: Deviation per channel of pixels in 0..255, (1, C, 1, 1).
        tta: Test-time augmentation of evaluations, a value of `dataset.tta`.
    """

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    tta: TestTimeAugmentation = "none"

    @classmethod
    def copy_of(
        cls,
        split: PixelImages,
        device: torch.device,
        normalisation: Normalisation,
        index: Indices | None = None,
        *,
        tta: TestTimeAugmentation = "none",
    ) -> DeviceSplit:
        """Copy the images of a split to a device.

        Args:
            split: Memory-mapped images.
            device: Target device.
            normalisation: Mean and deviation of the pixels.
            index: Positions of the images to copy, (N,); None copies all.
            tta: Test-time augmentation of evaluations.
        """
        images, labels = split.images, split.labels
        if index is not None:
            images, labels = images[index], labels[index]
        mean, std = normalisation.on(device)
        return cls(
            images=torch.from_numpy(np.array(images)).to(device),
            labels=torch.from_numpy(np.array(labels)).to(device).long(),
            mean=mean,
            std=std,
            tta=tta,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> int:
        """Height of the images, in pixels."""
        return self.images.shape[2]

    @property
    def in_chans(self) -> int:
        """Number of channels."""
        return self.images.shape[1]

    def normalise(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 pixels (B, C, H, W) into one new float tensor."""
        return pixels.float().sub_(self.mean).div_(self.std)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised float images (B, C, H, W) and their labels (B,)."""
        return self.normalise(self.images[index]), self.labels[index]

    def share(self, workers: Workers) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this rank's share of the split in batches; over all ranks every image comes once."""
        mine = torch.tensor_split(torch.arange(len(self), device=self.labels.device), workers.world_size)[workers.rank]
        for index in mine.split(_EVALUATION_BATCH):
            if len(index):
                yield self.batch(index)


@dataclass(frozen=True)
class DeviceImages:
    """Three splits of a trial, on the device or decoded when needed.

    Args:
        train: Training images without the held-out ones.
        validation: Held-out images, which choose between epochs and between trials.
        test: Test images, read once, at the end of a trial.
        class_names: Names of the classes, one for each of the network's outputs.
    """

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def image_size(self) -> int:
        """Height of the images, in pixels."""
        return self.train.image_size

    @property
    def in_chans(self) -> int:
        """Number of channels of the images."""
        return self.train.in_chans
