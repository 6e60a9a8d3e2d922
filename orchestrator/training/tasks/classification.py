"""Image classification: one class per image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import models
from orchestrator.config.sections.dataset import DatasetConfig
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.tasks.classification import CLASSIFICATION
from orchestrator.config.tasks.facts import TaskFacts
from orchestrator.data import ImageDataset
from orchestrator.training.images.decoded_images import DecodedSplit
from orchestrator.training.images.device_images import DeviceImages, DeviceSplit, Normalisation
from orchestrator.training.images.image_files import ImageFiles
from orchestrator.training.images.placement import place_dataset, place_files, place_split
from orchestrator.training.images.split import Batch, Split
from orchestrator.training.images.training_batches import TrainingBatches, training_batches
from orchestrator.training.losses import loss_sum
from orchestrator.training.tasks.predictions import PredictedClass
from orchestrator.training.tasks.task import Evaluator, Predictor, Task
from orchestrator.training.workers import Workers

__all__ = ["Classification", "ClassificationEvaluator"]


class Classification(Task):
    """One class per image: logits (B, num_classes), labels (B,), or class probabilities where images are mixed."""

    facts: ClassVar[TaskFacts] = CLASSIFICATION

    def build_network(self, description: Mapping[str, Any]) -> nn.Module:
        """Build a classifier; options that a description of version 0.1.0 lacks have the default of that version."""
        return models.create_model(
            description["name"],
            num_classes=description["num_classes"],
            in_chans=description["in_chans"],
            image_size=description["image_size"],
            **models.options_of_record(description["name"], description["options"]),
        )

    def model_cost(self, description: Mapping[str, Any]) -> models.ModelCost:
        """Return the cost of a classifier; see `Task`."""
        shape = {key: description[key] for key in ("num_classes", "in_chans", "image_size")}
        return models.model_cost(description["name"], description["options"], **shape)

    def model_params(self, description: Mapping[str, Any]) -> int:
        """Return the parameters of a classifier; see `Task`."""
        shape = {key: description[key] for key in ("num_classes", "in_chans", "image_size")}
        return models.model_params(description["name"], description["options"], **shape)

    def output_shape(self, description: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the shape of the logits; see `Task`."""
        return (description["num_classes"],)

    def place_dataset(self, source: ImageDataset, device: torch.device, dataset: DatasetConfig) -> DeviceImages:
        """Place the three splits; see `Task`."""
        return place_dataset(source, device, dataset)

    def place_split(
        self,
        source: ImageDataset,
        split: str,
        device: torch.device,
        dataset: DatasetConfig,
        normalisation: Normalisation,
    ) -> DeviceSplit | DecodedSplit:
        """Place one split; see `Task`."""
        return place_split(source, split, device, dataset, normalisation)

    def place_files(
        self, files: ImageFiles, device: torch.device, dataset: DatasetConfig, normalisation: Normalisation
    ) -> DecodedSplit:
        """Place image files; see `Task`."""
        return place_files(files, device, dataset, normalisation)

    def training_batches(
        self, split: Split, training: TrainingConfig, workers: Workers, *, num_classes: int, seed: int
    ) -> TrainingBatches:
        """Return the training batches; see `Task`."""
        assert isinstance(split, DeviceSplit | DecodedSplit)  # as `place_dataset` places it
        return training_batches(split, training, workers, num_classes=num_classes, seed=seed)

    def example_batch(
        self, description: Mapping[str, Any], training: TrainingConfig, *, images: int, side: int, device: torch.device
    ) -> Batch:
        """Return black images with labels, or with class probabilities where images are mixed; see `Task`."""
        classes = description["num_classes"]
        pixels = torch.zeros(images, description["in_chans"], side, side, device=device)
        if training.mixup_alpha or training.cutmix_alpha:
            return pixels, torch.full((images, classes), 1 / classes, device=device)
        return pixels, torch.arange(images, device=device) % classes

    def loss_sum(self, outputs: Tensor, targets: Tensor, training: TrainingConfig) -> Tensor:
        """Return the loss summed over the images; see `Task`."""
        return loss_sum(outputs, targets, training)

    def predict(self, predictor: Predictor, images: Tensor, tta: str) -> Tensor:
        """Return logits, or with `hflip` the logarithm of probabilities averaged over images and mirror images."""
        if tta != "hflip":
            logits: Tensor = predictor.predict(images)
            return logits
        views = [predictor.predict(view).log_softmax(1) for view in (images, images.flip(3))]
        return torch.logaddexp(*views) - math.log(2)

    def predictions(self, outputs: Tensor, targets: Any, *, least_score: float = 0.0) -> list[PredictedClass]:
        """Return the probabilities of the classes; see `Task`."""
        del targets, least_score
        return [PredictedClass(row) for row in outputs.float().softmax(1)]

    def create_evaluator(self, num_classes: int, device: torch.device) -> Evaluator:
        """Return a new evaluator; see `Task`."""
        del num_classes  # the logits have as many
        return ClassificationEvaluator(device)


class ClassificationEvaluator:
    """Metrics `top1`, `top5` and `loss`: counts are summed over all ranks and divided once.

    The loss is plain cross-entropy for every training loss, so that trials compare. With fewer than five classes `top5`
    is 1.

    Args:
        device: Device of logits and labels.
    """

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(3, device=device, dtype=torch.float64)  # loss, top1, top5
        self._images = 0

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add the logits (B, num_classes) of images and their labels (B,)."""
        loss = cross_entropy(predictions, targets, reduction="sum")
        self._sums += torch.stack([loss.double(), *_correct(predictions, targets)])
        self._images += len(targets)

    def all_reduce(self, workers: Workers) -> None:
        """Sum the counts over all ranks; every rank must call."""
        both = workers.sum(torch.cat([self._sums, self._sums.new_tensor([self._images])]))
        self._sums, self._images = both[:3], int(both[3])

    def compute(self) -> dict[str, float]:
        """Return `loss`, `top1` and `top5`."""
        loss, top1, top5 = (self._sums / self._images).tolist()
        return {"loss": loss, "top1": top1, "top5": top5}


def _correct(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count the images whose label comes first and among the first five; of equal logits the lower class wins."""
    nearest = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = nearest == labels[:, None]
    first = logits.argmax(dim=1) == labels
    return first.sum().double(), hits.any(dim=1).sum().double()
