"""Tasks on annotated images of any size: splits, and the transforms of image and target."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from orchestrator.config.sections.dataset import DatasetConfig, Resize
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.data import Indices, draw_fraction, split_validation, worker_share
from orchestrator.data.datasets import scene_side
from orchestrator.data.scenes import SceneDataset, Scenes
from orchestrator.errors import DataError
from orchestrator.training.augmentations.transforms import EvaluationTransform, TrainingTransform
from orchestrator.training.checkpoints.best_weights import share_of_255
from orchestrator.training.images.device_images import DeviceImages, Normalisation
from orchestrator.training.images.image_files import FileScenes, ImageFiles
from orchestrator.training.images.image_loader import SampleKey
from orchestrator.training.images.split import Batch
from orchestrator.training.randomness import mix
from orchestrator.training.tasks.samples import SampledTask, SampleSplit
from orchestrator.training.tasks.trees import to_device
from orchestrator.training.workers import Workers

__all__ = ["SceneSplit", "SceneTask", "Transforms"]

_MOST_PIXELS = 2**21  # of a batch of an evaluation


class Transforms(Hashable, Protocol):
    """Settings from which transforms follow, such as `SegmentationTransforms`."""

    def for_training(self) -> TrainingTransform:
        """Create the transform of training images."""

    def for_evaluation(self) -> EvaluationTransform:
        """Create the transform of evaluated images."""


class SceneTask(SampledTask):
    """A task that reads annotated images, of the kind `TaskFacts.annotation`.

    Images are resized, augmented and normalised with their targets on the processor; they are drawn for validation
    without regard to classes, of which an image has several.

    Class attributes:
        reads: Keys of the targets that it uses; others are dropped before the transforms.
        evaluation_batch: Largest number of images of a batch of an evaluation.
    """

    reads: ClassVar[frozenset[str]]
    evaluation_batch: ClassVar[int] = 128

    @abstractmethod
    def transforms(self, split: SceneSplit, training: TrainingConfig | None) -> Transforms:
        """Return the settings of the transforms.

        Args:
            split: Split of the images, with their size and normalisation.
            training: Training settings; None for evaluations.
        """

    def class_names(self, source: Any) -> tuple[str, ...]:
        """Return the names of the classes of maps or of objects; see `Task`."""
        kind = self.facts.annotation
        if not isinstance(source, SceneDataset):
            raise DataError(f"its images have one label each, and {self.facts.name} needs {kind}")
        if kind not in source.annotations:
            raise DataError(f"its images have {', '.join(source.annotations)}, and {self.facts.name} needs {kind}")
        return source.map_class_names if kind == "class_map" else source.class_names

    def place_dataset(self, source: SceneDataset, device: torch.device, dataset: DatasetConfig) -> DeviceImages:
        """Place the three splits; see `Task`."""
        names, normalisation = self.class_names(source), Normalisation.of(dataset, source)
        alike = np.zeros(len(source.splits["train"]), np.int32)
        whole = self.place_split(source, "train", device, dataset, normalisation)
        test = self.place_split(source, "test", device, dataset, normalisation)

        def fraction_of(positions: Indices) -> Indices:
            return draw_fraction(alike, positions, dataset.train_fraction, dataset.split_seed)

        if dataset.select_on == "test":
            return DeviceImages(replace(whole, positions=fraction_of(whole.positions)), test, test, names)
        kept, held_out = split_validation(alike, dataset.validation_fraction, dataset.split_seed)
        train, validation = (replace(whole, positions=positions) for positions in (fraction_of(kept), held_out))
        return DeviceImages(train, validation, test, names)

    def place_split(
        self,
        source: SceneDataset,
        split: str,
        device: torch.device,
        dataset: DatasetConfig,
        normalisation: Normalisation,
    ) -> SceneSplit:
        """Place one split; see `Task`."""
        self.class_names(source)
        return self._placed(source.splits[split], device, dataset, normalisation)

    def place_files(
        self, files: ImageFiles, device: torch.device, dataset: DatasetConfig, normalisation: Normalisation
    ) -> SceneSplit:
        """Place image files; see `Task`."""
        return self._placed(FileScenes(files), device, dataset, normalisation)

    def _placed(
        self, samples: Scenes | FileScenes, device: torch.device, dataset: DatasetConfig, normalisation: Normalisation
    ) -> SceneSplit:
        mean, std = normalisation.on(device)
        side = scene_side(dataset.name, dataset.image_size)
        channels = tuple(share_of_255(mean)), tuple(share_of_255(std))
        every = np.arange(len(samples))
        settings = dataset.tta, self.evaluation_batch
        resize = dataset.resize
        return SceneSplit(self, samples, every, mean, std, side, *settings, channels=channels, resize=resize)


@dataclass(frozen=True)
class SceneSplit(SampleSplit):
    """Some of the annotated images of a prepared split; see `SampleSplit`.

    Args:
        image_size: Side to which images are resized, in pixels: the shorter one, or both, as the task does.
        channels: Mean and deviation per channel of pixels in 0..1; those of `mean` and `std` to the last bit.
        resize: Ratio of the sides of resized images, a value of `dataset.resize`.
    """

    task: SceneTask
    samples: Scenes | FileScenes
    channels: tuple[tuple[float, ...], tuple[float, ...]] = field(kw_only=True)
    resize: Resize = field(default="keep_ratio", kw_only=True)

    def evaluated(self, place: int) -> tuple[Tensor, Any]:
        """Return a resized and normalised sample, whose target stays at the original size; see `SampleSplit`."""
        image, target = self._read(place)
        return _for_evaluation(self.task.transforms(self, None))(image, target)

    def augmented(self, place: int, training: TrainingConfig, *, seed: int, epoch: int) -> tuple[Tensor, Any]:
        """Return an augmented and normalised sample; see `SampleSplit`.

        The target has `draw` as well, int64: a seed of this image in this epoch, for what a network draws at random.
        """
        image, target = self._read(place)
        transform = _for_training(self.task.transforms(self, training))
        changed, target = transform(image, target, SampleKey(seed, epoch, place, 0))
        return changed, {**target, "draw": torch.tensor(mix(seed, epoch, place))}

    def share(self, workers: Workers) -> Iterator[Batch]:
        """Yield this rank's share in batches of images of one size.

        Beside a larger image, one would be padded, which changes what layers that read the whole map compute: metrics
        would depend on the number of ranks.
        """
        mine = worker_share(np.arange(len(self)), workers.rank, workers.world_size)
        heights, widths = self.samples.sizes[self.positions[mine]].T
        batch: list[tuple[Tensor, Any]] = []
        for place in mine[np.argsort(heights / widths, kind="stable")].tolist():
            sample = self.evaluated(place)
            size = sample[0].shape
            most = min(self.evaluation_batch, _MOST_PIXELS // math.prod(size[-2:]))
            if batch and (batch[0][0].shape != size or len(batch) >= most):
                yield self.collate(batch)
                batch = []
            batch.append(sample)
        if batch:
            yield self.collate(batch)

    def _read(self, place: int) -> tuple[Tensor, dict[str, Any]]:
        image, target = self.samples.sample(int(self.positions[place]), masks="masks" in self.task.reads)
        return image, {key: value for key, value in target.items() if key in self.task.reads}

    def collate(self, samples: Sequence[tuple[Tensor, Any]]) -> Batch:
        """Return samples, which are normalised, as a batch on the device."""
        images, targets = self.task.collate([image for image, _ in samples], [target for _, target in samples])
        return to_device(images, self.mean.device), to_device(targets, self.mean.device)


@lru_cache(16)
def _for_training(settings: Transforms) -> TrainingTransform:
    return settings.for_training()


@lru_cache(16)
def _for_evaluation(settings: Transforms) -> EvaluationTransform:
    return settings.for_evaluation()
