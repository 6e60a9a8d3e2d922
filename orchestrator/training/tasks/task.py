"""Interface of a task: what a network predicts, and all that the training loop does differently for it.

`Trial`, checkpoints, lanes, search and records call only what is here. A task has no state: one object serves all
trials of a process, and what changes during a trial is in the network, the batches and the evaluator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

import models
from orchestrator.config.sections.dataset import DatasetConfig
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.tasks.facts import TaskFacts
from orchestrator.data import ImageDataset
from orchestrator.errors import DataError
from orchestrator.training.images.device_images import DeviceImages, Normalisation
from orchestrator.training.images.image_files import ImageFiles
from orchestrator.training.images.split import Batch, Split
from orchestrator.training.images.training_batches import TrainingBatches
from orchestrator.training.tasks.predictions import Prediction
from orchestrator.training.workers import Workers

__all__ = ["Evaluator", "Predictor", "Task"]


class Predictor(Protocol):
    """Network to evaluate, with its method of prediction."""

    @property
    def evaluated(self) -> nn.Module:
        """Network in use."""

    def predict(self, images: Any) -> Any:
        """Return the outputs of the network, floating-point ones in float32."""


class Evaluator(Protocol):
    """Metrics of a network on a split, accumulated over batches, then over ranks."""

    def update(self, predictions: Any, targets: Any) -> None:
        """Add the predictions of a batch.

        Args:
            predictions: Result of `Task.predict`.
            targets: Targets of the batch.
        """

    def all_reduce(self, workers: Workers) -> None:
        """Combine the state of all ranks, so that all have the same; every rank must call, once, after its last batch.

        Args:
            workers: This rank and its process group.
        """

    def compute(self) -> dict[str, float]:
        """Return the metrics of `TaskFacts.metrics`, by name."""


class Task(ABC):
    """A task; one object without state, entered with `register_task`.

    Class attributes:
        facts: Name, metrics, losses and settings, which configuration and readers use.
    """

    facts: ClassVar[TaskFacts]

    @abstractmethod
    def build_network(self, description: Mapping[str, Any]) -> nn.Module:
        """Build the network of a description with the head of this task, freshly initialised.

        Args:
            description: `name`, `options`, `num_classes`, `in_chans` and `image_size`, see `describe_network`.
        """

    @abstractmethod
    def model_cost(self, description: Mapping[str, Any]) -> models.ModelCost:
        """Return parameters and multiply-accumulates of a network for one image.

        Args:
            description: Description of the network, see `describe_network`.
        """

    def model_params(self, description: Mapping[str, Any]) -> int:
        """Return the parameters of a network, without its multiply-accumulates where that is quicker.

        Args:
            description: Description of the network, see `describe_network`.
        """
        return self.model_cost(description).params

    def output_shape(self, description: Mapping[str, Any]) -> tuple[int, ...] | None:
        """Return the shape of the output for one image; None where the output is not one tensor.

        Only networks with one output tensor are exported and compared with their files.

        Args:
            description: Description of the network, see `describe_network`.
        """
        del description
        return None

    def class_names(self, source: Any) -> tuple[str, ...]:
        """Return the names of the classes of a dataset, one for each that the network distinguishes.

        Args:
            source: Result of `open_any_dataset`.

        Raises:
            DataError: The images do not have what the task reads.
        """
        if not isinstance(source, ImageDataset):
            rule = "its images have boxes, masks or maps of classes"
            raise DataError(f"{rule}, and {self.facts.name} needs images with one label each")
        return source.class_names

    @abstractmethod
    def place_dataset(self, source: Any, device: torch.device, dataset: DatasetConfig) -> DeviceImages:
        """Place the three splits of a sweep on a worker, once for all trials of a lane.

        Args:
            source: Result of `open_any_dataset`.
            device: Device of this rank.
            dataset: Section `dataset`, which sets how images are split and resized.
        """

    @abstractmethod
    def place_split(
        self, source: Any, split: str, device: torch.device, dataset: DatasetConfig, normalisation: Normalisation
    ) -> Split:
        """Place one split, to evaluate a trained network.

        Args:
            source: Result of `open_any_dataset`.
            split: Name of the split.
            device: Target device.
            dataset: Section `dataset`, which sets how images are resized.
            normalisation: Mean and deviation of the pixels.
        """

    def place_files(
        self, files: ImageFiles, device: torch.device, dataset: DatasetConfig, normalisation: Normalisation
    ) -> Split:
        """Place image files without annotations, which are read as the images of an evaluation.

        Args:
            files: Image files.
            device: Target device.
            dataset: Section `dataset`, which sets how images are resized.
            normalisation: Mean and deviation of the pixels.

        Raises:
            DataError: The task has no `Prediction`, or its networks cannot read image files.
        """
        del files, device, dataset, normalisation
        raise DataError(f"task {self.facts.name}: its predictions for image files have no form that can be drawn")

    @abstractmethod
    def training_batches(
        self, split: Split, training: TrainingConfig, workers: Workers, *, num_classes: int, seed: int
    ) -> TrainingBatches:
        """Return the training batches of a trial: images and targets, augmented together and collated.

        Args:
            split: Training split, as `place_dataset` has placed it.
            training: Training settings, which set the augmentation.
            workers: This rank and its process group.
            num_classes: Number of classes.
            seed: Seed of the trial.
        """

    @abstractmethod
    def example_batch(
        self, description: Mapping[str, Any], training: TrainingConfig, *, images: int, side: int, device: torch.device
    ) -> Batch:
        """Return a batch of black images with targets, to measure memory and latency.

        Args:
            description: Description of the network, see `describe_network`.
            training: Training settings.
            images: Number of images.
            side: Height and width of the images, in pixels.
            device: Device of the batch; `meta` for a batch without values.
        """

    def forward(self, network: Any, images: Any, targets: Any) -> Any:
        """Call a network in training mode and return its outputs; a network that computes its losses gets the targets.

        Args:
            network: Network to call, wrapped and compiled as the settings say.
            images: Images of the batch.
            targets: Targets of the batch.
        """
        del targets
        return network(images)

    def forward_on_shapes(self, network: Any, images: Any, targets: Any) -> Any:
        """Compute what a training step computes, on tensors that may be without values, to estimate its memory.

        The default calls `forward`; a network that reads values there, such as those by which it chooses boxes, needs
        another way.

        Args:
            network: Network in training mode.
            images: Images of `example_batch`.
            targets: Targets of these images.
        """
        return self.forward(network, images, targets)

    @abstractmethod
    def loss_sum(self, outputs: Any, targets: Any, training: TrainingConfig) -> Tensor:
        """Return the loss of a batch, summed over what `loss_count` counts, a scalar in float32.

        The training loop divides the sum over all ranks by the count over all ranks.

        Args:
            outputs: Result of `forward`.
            targets: Targets of the batch.
            training: Training settings, which choose the loss.
        """

    def loss_count(self, targets: Any) -> Tensor | None:
        """Return the number of units of a batch over which its loss is summed, such as pixels; None for its images.

        A count costs a collective operation at every step; the number of images is known to all ranks without one.

        Args:
            targets: Targets of this rank's whole share of a step.
        """
        del targets
        return None

    def losses_with_counts(self, outputs: Any) -> tuple[Tensor, Tensor] | None:
        """Return losses of which the network says how much they count: sums and counts, float32 (L,) each.

        For networks that choose in their forward pass what they train on, such as boxes: neither `loss_count` nor the
        number of images is the divisor of their losses then. Each sum over all ranks is divided by its count over all
        ranks, and the loss of the step is the sum of these means, the mean over its parts by their images. It costs a
        collective operation for each part of a step. The default, None, leaves the loss to `loss_sum`.

        Args:
            outputs: Result of `forward`.
        """
        del outputs
        return None

    def predict(self, predictor: Predictor, images: Any, tta: str) -> Any:
        """Return the predictions of a batch, for the evaluator.

        Args:
            predictor: Network in evaluation mode.
            images: Images of the batch.
            tta: Test-time augmentation, one of `TaskFacts.tta`.
        """
        del tta  # the default of `TaskFacts.tta` has `none` alone
        return predictor.predict(images)

    def predictions(self, outputs: Any, targets: Any, *, least_score: float = 0.0) -> Sequence[Prediction]:
        """Return the predictions of a batch for the original images, one for each.

        Args:
            outputs: Result of `predict`.
            targets: Targets of the batch, of a split that `place_files` or `place_split` has placed.
            least_score: Smallest score of an object; for tasks that score objects.

        Raises:
            DataError: The task has no `Prediction`.
        """
        del outputs, targets, least_score
        raise DataError(f"task {self.facts.name}: its predictions have no form that can be drawn")

    @abstractmethod
    def create_evaluator(self, num_classes: int, device: torch.device) -> Evaluator:
        """Return a new evaluator.

        Args:
            num_classes: Number of classes.
            device: Device of predictions and targets.
        """
