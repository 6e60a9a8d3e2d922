"""Splits and batches of tasks whose targets are trees: samples are augmented with their targets, then collated.

Classification does not use this: its labels are a tensor, and whole batches are augmented on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from orchestrator.config.sections.dataset import TestTimeAugmentation
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.data import Indices, worker_share
from orchestrator.training.images.draws import SampleDraws
from orchestrator.training.images.split import Batch, Split
from orchestrator.training.images.training_batches import TrainingBatches
from orchestrator.training.tasks.task import Task
from orchestrator.training.tasks.trees import to_device
from orchestrator.training.workers import Workers

__all__ = ["SampleBatches", "SampleSplit", "SampledTask", "Samples"]


class Samples(Protocol):
    """Images with their targets, read one at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        """Return an image, uint8 (C, H, W), and its target, a tree that the caller may change."""


class SampledTask(Task):
    """A task that augments and collates samples; `place_dataset` and `place_split` make a `SampleSplit` of them."""

    def augment(self, image: Tensor, target: Any, training: TrainingConfig, draws: SampleDraws) -> tuple[Tensor, Any]:
        """Change a training image and its target together; the default changes nothing.

        Args:
            image: Pixels, uint8 (C, H, W).
            target: Its target.
            training: Training settings.
            draws: Random numbers of this sample in this epoch, the same for every number of ranks.
        """
        del training, draws
        return image, target

    def collate(self, images: Sequence[Tensor], targets: Sequence[Any]) -> Batch:
        """Put samples into a batch, see `Batch`; by default two lists, for images and targets of varying size.

        Args:
            images: Normalised images, float (C, H, W).
            targets: Their targets.
        """
        return list(images), list(targets)

    def training_batches(
        self, split: Split, training: TrainingConfig, workers: Workers, *, num_classes: int, seed: int
    ) -> TrainingBatches:
        """Return augmented and collated batches; see `Task`."""
        del num_classes
        assert isinstance(split, SampleSplit)  # as `place_dataset` places it
        return SampleBatches(split, training, workers, seed=seed)


@dataclass(frozen=True)
class SampleSplit:
    """Some of the samples of a prepared split.

    Args:
        task: Task that collates them.
        samples: Samples of the whole prepared split.
        positions: Positions of this split's samples among them, (N,).
        mean: Mean per channel of pixels in 0..255, (1, C, 1, 1), on the device of the batches.
        std: Deviation per channel of pixels in 0..255, (1, C, 1, 1).
        image_size: Height of the images, or of those that a network is built for, in pixels.
        tta: Test-time augmentation of evaluations, a value of `dataset.tta`.
        evaluation_batch: Number of images of a batch of an evaluation.
    """

    task: SampledTask
    samples: Samples
    positions: Indices
    mean: Tensor
    std: Tensor
    image_size: int
    tta: TestTimeAugmentation = "none"
    evaluation_batch: int = 128

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def in_chans(self) -> int:
        """Number of channels."""
        return self.mean.shape[1]

    def collate(self, samples: Sequence[tuple[Tensor, Any]]) -> Batch:
        """Return samples as a batch on the device, the images normalised."""
        images, targets = to_device(
            ([image for image, _ in samples], [target for _, target in samples]), self.mean.device
        )
        return self.task.collate([image.float().sub_(self.mean[0]).div_(self.std[0]) for image in images], targets)

    def batch(self, index: Tensor) -> Batch:
        """Return images and targets at some positions, (B,), as they are evaluated."""
        return self.collate([self.evaluated(place) for place in index.tolist()])

    def evaluated(self, place: int) -> tuple[Tensor, Any]:
        """Return a sample as it is evaluated.

        Args:
            place: Position within this split.
        """
        return self.samples[int(self.positions[place])]

    def augmented(self, place: int, training: TrainingConfig, *, seed: int, epoch: int) -> tuple[Tensor, Any]:
        """Return a sample as it is trained on; its random numbers depend on seed, epoch and place alone.

        Args:
            place: Position within this split.
            training: Training settings.
            seed: Seed of the trial.
            epoch: Epoch, from 1.
        """
        image, target = self.samples[int(self.positions[place])]
        return self.task.augment(image, target, training, SampleDraws(seed, epoch, np.array([place])))

    def share(self, workers: Workers) -> Iterator[Batch]:
        """Yield this rank's share of the split in batches; over all ranks every sample comes once."""
        mine = torch.from_numpy(worker_share(np.arange(len(self)), workers.rank, workers.world_size))
        for index in mine.split(self.evaluation_batch):
            if len(index):
                yield self.batch(index)


class SampleBatches:
    """Training batches of one rank; the random numbers of a sample depend on seed, epoch and position alone.

    Args:
        split: Training samples.
        training: Training settings, which the task's `augment` reads.
        workers: This rank and its process group.
        seed: Seed of the trial.
    """

    def __init__(self, split: SampleSplit, training: TrainingConfig, workers: Workers, *, seed: int) -> None:
        self._split = split
        self._training = training
        self._workers = workers
        self._seed = seed

    def epoch(self, number: int, batches: Sequence[Indices], *, first: int = 0) -> Iterator[Batch]:
        """Yield this rank's share; see `TrainingBatches`."""
        for batch in batches[first:]:
            mine = worker_share(batch, self._workers.rank, self._workers.world_size)
            read = (self._split.augmented(int(place), self._training, seed=self._seed, epoch=number) for place in mine)
            yield self._split.collate(list(read))
