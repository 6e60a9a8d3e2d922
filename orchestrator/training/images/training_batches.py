"""Augmented training batches of one rank: of images on the device, or of files that are decoded when they are used.

The caller chooses the images of each batch; see `orchestrator.data.epoch_batches`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from orchestrator.config.sections.training import TrainingConfig
from orchestrator.data import Indices, worker_share
from orchestrator.data.decoding import ImageError
from orchestrator.errors import DataError
from orchestrator.training.images.batch_augment import BatchAugmentation, soft_targets
from orchestrator.training.images.decoded_images import DecodedSplit
from orchestrator.training.images.device_crops import DeferredCrops, EncodedBatch, crops_on_device, encoded_batch
from orchestrator.training.images.device_images import DeviceSplit
from orchestrator.training.images.draws import SampleDraws
from orchestrator.training.images.image_loader import ImageLoader, ImageTransforms, SampleKey, repeated_keys
from orchestrator.training.images.split import Batch
from orchestrator.training.images.training_crops import TrainingCrops
from orchestrator.training.workers import Workers

__all__ = ["DecodedBatches", "ResidentBatches", "TrainingBatches", "training_batches"]

Labelled = tuple[Tensor, Tensor]
"""Normalised images (B, C, H, W), and labels (B,) or, where images are mixed, class probabilities (B, num_classes)."""


class TrainingBatches(Protocol):
    """Source of the images of the training loop."""

    def epoch(self, number: int, batches: Sequence[Indices], *, first: int = 0) -> Iterator[Batch]:
        """Yield this rank's share of every step of an epoch.

        Args:
            number: Epoch, from 1.
            batches: Positions of the images of each step, for all ranks together.
            first: Number of steps to skip at the beginning, when an epoch is resumed.
        """


def training_batches(
    split: DeviceSplit | DecodedSplit, training: TrainingConfig, workers: Workers, *, num_classes: int, seed: int
) -> TrainingBatches:
    """Create the training batches of a trial.

    Args:
        split: Training images.
        training: Training settings, which set the augmentation.
        workers: This rank and its process group.
        num_classes: Number of classes.
        seed: Seed of the trial.
    """
    augmentation = BatchAugmentation.of(training)
    if isinstance(split, DeviceSplit):
        return ResidentBatches(
            split, augmentation, workers, num_classes=num_classes, seed=seed, repeats=training.repeats
        )
    transforms = dataclasses.replace(
        split.transforms,
        crop_scale=(training.crop_scale_min, 1.0),
        hflip=training.hflip,
        color_jitter=training.color_jitter,
        auto_augment=training.auto_augment,
    )
    return DecodedBatches(
        split, transforms, augmentation, workers, num_classes=num_classes, seed=seed, repeats=training.repeats
    )


class ResidentBatches:
    """Batches of small images, all on the device.

    The images of a step do not depend on the number of ranks, mixed images included.

    Args:
        split: Training images.
        augmentation: Augmentation of the images.
        workers: This rank and its process group.
        num_classes: Number of classes.
        seed: Seed of the trial.
        repeats: Samples of an image within an epoch, see `repeated_keys`.
    """

    def __init__(
        self,
        split: DeviceSplit,
        augmentation: BatchAugmentation,
        workers: Workers,
        *,
        num_classes: int,
        seed: int,
        repeats: int = 1,
    ) -> None:
        self._split = split
        self._augmentation = augmentation
        self._workers = workers
        self._num_classes = num_classes
        self._seed = seed
        self._repeats = repeats
        self._resident = augmentation.resident(split.images)

    def epoch(self, number: int, batches: Sequence[Indices], *, first: int = 0) -> Iterator[Labelled]:
        """Yield this rank's share; see `TrainingBatches`."""
        for batch in self._samples(batches)[first:]:
            mine = _own_share(batch, self._repeats, self._workers)
            images, labels = self._read(number, mine)
            if self._augmentation.mixes:
                partners = self._read(number, _own_share(batch[::-1], self._repeats, self._workers))
                draws = self._draws(number, mine), self._draws(number, batch[:1])
                yield _mixed((images, labels), partners, self._augmentation, draws, self._num_classes)
            else:
                yield images, labels

    def _samples(self, batches: Sequence[Indices]) -> Sequence[Indices]:
        """Return the number of every sample of an epoch: image times `repeats` plus copy."""
        if self._repeats == 1:
            return batches
        keys = repeated_keys(batches, seed=0, epoch=0, repeats=self._repeats)
        return [_numbers(step, self._repeats) for step in keys]

    def _draws(self, epoch: int, samples: Indices) -> SampleDraws:
        return SampleDraws(self._seed, epoch, samples)

    def _read(self, epoch: int, samples: Indices) -> Labelled:
        draws = self._draws(epoch, samples)
        index = torch.from_numpy(np.ascontiguousarray(samples // self._repeats)).to(self._split.labels.device)
        pixels = self._augmentation.take(self._resident, index, draws)
        images = self._split.normalise(self._augmentation.colour(pixels, draws))
        return self._augmentation.hide_(images, draws), self._split.labels[index]


class DecodedBatches:
    """Batches of large images, decoded and cropped in separate processes.

    Images are mixed with others of the same rank, as timm does.

    Args:
        split: Training images.
        transforms: Crop and colours.
        augmentation: Augmentation on the device; crops and mirroring are left to `transforms`.
        workers: This rank and its process group.
        num_classes: Number of classes.
        seed: Seed of the trial.
        repeats: Samples of an image within an epoch, see `repeated_keys`.
    """

    def __init__(
        self,
        split: DecodedSplit,
        transforms: ImageTransforms,
        augmentation: BatchAugmentation,
        workers: Workers,
        *,
        num_classes: int,
        seed: int,
        repeats: int,
    ) -> None:
        self._split = split
        self._augmentation = augmentation
        self._workers = workers
        self._num_classes = num_classes
        self._seed = seed
        self._repeats = repeats
        self._size = (transforms.image_size, transforms.image_size)
        conversion, collate = transforms.for_training(), None
        if transforms.decoder == "nvjpeg" and workers.device.type == "cuda":
            assert isinstance(conversion, TrainingCrops)  # as with every decoder but Pillow
            conversion, collate = DeferredCrops(conversion), encoded_batch
        self._loader = ImageLoader(
            split.files,
            conversion,
            processes=split.processes,
            pin_memory=workers.device.type == "cuda",
            collate=collate,
        )

    def epoch(self, number: int, batches: Sequence[Indices], *, first: int = 0) -> Iterator[Labelled]:
        """Yield this rank's share; see `TrainingBatches`."""
        all_keys = repeated_keys(
            [self._split.positions[batch] for batch in batches], seed=self._seed, epoch=number, repeats=self._repeats
        )
        mine = [
            [keys[place] for place in _own_share(np.arange(len(keys)), self._repeats, self._workers)]
            for keys in all_keys[first:]
        ]
        device = self._workers.device
        for keys, (loaded, labels) in zip(mine, self._loader.batches(mine), strict=True):
            pixels = self._crops(loaded) if isinstance(loaded, EncodedBatch) else loaded
            samples = _numbers(keys, self._repeats)
            draws = SampleDraws(self._seed, number, samples)
            images = self._split.normalise(self._augmentation.colour(pixels.to(device, non_blocking=True), draws))
            batch = self._augmentation.hide_(images, draws), labels.to(device, non_blocking=True)
            if self._augmentation.mixes:
                partners = batch[0].flip(0), batch[1].flip(0)
                both = draws, SampleDraws(self._seed, number, samples[:1])
                yield _mixed(batch, partners, self._augmentation, both, self._num_classes)
            else:
                yield batch

    def _crops(self, batch: EncodedBatch) -> Tensor:
        try:
            return crops_on_device(batch, self._size, self._workers.device)
        except ImageError as error:
            raise DataError(f"an image cannot be decoded ({error}); prepare the dataset again") from None


def _mixed(
    batch: Labelled,
    partners: Labelled,
    augmentation: BatchAugmentation,
    draws: tuple[SampleDraws, SampleDraws],
    num_classes: int,
) -> Labelled:
    """Mix a batch with its partners; the draws are those of its samples, and those of the whole batch."""
    (images, labels), (others, other_labels) = batch, partners
    own, common = draws
    height, width = images.shape[2:]
    mixing = augmentation.mixing((height, width), common if augmentation.mixup_mode == "batch" else own, images.device)
    targets = soft_targets(labels, other_labels, mixing.share, num_classes)
    return augmentation.erase_mixed_(augmentation.mix(images, others, mixing), own), targets


def _own_share(batch: Indices, repeats: int, workers: Workers) -> Indices:
    """Return one rank's part of a batch; copies of an image are spread over the ranks, as by timm's sampler."""
    if repeats == 1:
        return worker_share(batch, workers.rank, workers.world_size)
    return batch[workers.rank :: workers.world_size]


def _numbers(keys: Sequence[SampleKey], repeats: int) -> Indices:
    """Return the numbers of samples, from which their draws follow."""
    return np.array([key.place * repeats + key.copy for key in keys])
