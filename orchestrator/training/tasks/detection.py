"""Detection: boxes of objects, and instances, boxes with masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

import models
from models.backbones.head_options import only_side
from models.detection import build_detector, detector_cost, training_shapes
from orchestrator.config.sections.dataset import DatasetConfig
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.tasks.detection import DETECTION, INSTANCES
from orchestrator.config.tasks.facts import TaskFacts
from orchestrator.data.scenes import SceneDataset
from orchestrator.errors import DataError
from orchestrator.training.augmentations.original_size import prediction_to_original
from orchestrator.training.augmentations.transforms import Channels, DetectionTransforms
from orchestrator.training.evaluators.average_precision import DetectionEvaluator
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.images.split import Batch
from orchestrator.training.tasks.predictions import PredictedObjects, predicted_objects
from orchestrator.training.tasks.scenes import SceneSplit, SceneTask
from orchestrator.training.workers import Workers

__all__ = ["Detection", "Instances", "PredictionEvaluator", "longest_side"]

_LONGEST = 5 / 3  # of the longer side of an image, at most, over the shorter one: 1333 px over 800 px
_EXAMPLES = 8  # objects of an image of an example batch
_CHANNELS, _STAND_IN_PX = 3, 64  # of the image of a rank without images; all annotated images have three channels


def longest_side(image_size: int) -> int:
    """Return the bound of the longer side of images whose shorter one has `image_size` pixels at most."""
    return int(image_size * _LONGEST)


class Detection(SceneTask):
    """Lists of images of any size; losses by name in training, `boxes`, `labels` and `scores` in evaluation."""

    facts: ClassVar[TaskFacts] = DETECTION
    reads: ClassVar[frozenset[str]] = frozenset({"boxes", "labels", "iscrowd", "area", "image_id"})
    evaluation_batch: ClassVar[int] = 16

    @property
    def has_masks(self) -> bool:
        """True where objects have masks."""
        return "masks" in self.reads

    def build_network(self, description: Mapping[str, Any]) -> nn.Module:
        """Build a backbone with a pyramid and the heads of a detector; see `Task`."""
        options = models.options_of_record(description["name"], description["options"])
        return build_detector(description["name"], options, masks=self.has_masks, **_shape(description))

    def model_cost(self, description: Mapping[str, Any]) -> models.ModelCost:
        """Return the cost of the whole detector; see `Task`."""
        return detector_cost(description["name"], description["options"], masks=self.has_masks, **_shape(description))

    def place_dataset(self, source: SceneDataset, device: torch.device, dataset: DatasetConfig) -> DeviceImages:
        """Place the three splits; see `Task`.

        Raises:
            DataError: The images of an evaluation have no object.
        """
        placed = super().place_dataset(source, device, dataset)
        for split in (placed.validation, placed.test):
            assert isinstance(split, SceneSplit)
            if not split.samples.objects[split.positions].any():
                raise _without_objects(self.facts)
        return placed

    def transforms(self, split: SceneSplit, training: TrainingConfig | None) -> DetectionTransforms:
        """Return the settings of the transforms: images within two bounds, or squares; see `SceneTask`."""
        return DetectionTransforms(
            short_px=split.image_size,
            long_px=longest_side(split.image_size),
            square_px=split.image_size if split.resize == "square" else 0,
            hflip=0.0 if training is None else training.hflip,
            photometric=training is not None and training.photometric,
            mean=cast(Channels, split.channels[0]),
            std=cast(Channels, split.channels[1]),
        )

    def example_batch(
        self, description: Mapping[str, Any], training: TrainingConfig, *, images: int, side: int, device: torch.device
    ) -> Batch:
        """Return black images of the largest size, each with some objects; see `Task`."""
        del training
        longest = only_side(description["name"], side) or longest_side(side)
        return self._examples(images, description["in_chans"], (side, longest), device)

    def forward(self, network: Any, images: list[Tensor], targets: list[dict[str, Any]]) -> Any:
        """Return the losses by name, each a sum and its count; see `Task`.

        A rank without images takes part in the exchange of gradients all the same: with an image that does not count.
        """
        if images:
            return network(images, targets)
        weights: Tensor = next(network.parameters())
        stand_in = self._examples(1, _CHANNELS, (_STAND_IN_PX, _STAND_IN_PX), weights.device)
        return {name: 0 * pair for name, pair in network(*stand_in).items()}

    def forward_on_shapes(self, network: Any, images: list[Tensor], targets: list[dict[str, Any]]) -> list[Tensor]:
        """Compute all parts of a detector for as many boxes as a step has at most; see `Task`."""
        del targets
        return training_shapes(network, torch.stack(images))

    def losses_with_counts(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return sums and counts of the losses, in the order of their names; see `Task`."""
        pairs = torch.stack([outputs[name].float() for name in sorted(outputs)])
        return pairs[:, 0], pairs[:, 1]

    def loss_sum(
        self, outputs: Mapping[str, Tensor], targets: Sequence[Mapping[str, Any]], training: TrainingConfig
    ) -> Tensor:
        """Return the losses of a batch in one process, summed over its images; see `Task`."""
        del training
        sums, counts = self.losses_with_counts(outputs)
        return (sums / counts.clamp(min=1)).sum() * len(targets)

    def predictions(
        self, outputs: Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]], *, least_score: float = 0.0
    ) -> list[PredictedObjects]:
        """Return the detections in pixels of the original images; see `Task`."""
        return predicted_objects(outputs, targets, least_score=least_score)

    def create_evaluator(self, num_classes: int, device: torch.device) -> PredictionEvaluator:
        """Return a new evaluator; see `Task`."""
        del num_classes, device  # COCO's metrics are computed on the processor
        return PredictionEvaluator(self.facts, masks=self.has_masks)

    def _examples(
        self, images: int, in_chans: int, size: tuple[int, int], device: torch.device
    ) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Return black images of a size, each with objects of the first class side by side."""
        height, width = size
        pixels = [torch.zeros(in_chans, *size, device=device) for _ in range(images)]
        left = torch.arange(_EXAMPLES, dtype=torch.float32, device=device) * (width / _EXAMPLES)
        sides = left, torch.zeros_like(left), left + width / _EXAMPLES, torch.full_like(left, height)
        target = {
            "boxes": torch.stack(sides, dim=1),
            "labels": torch.ones(_EXAMPLES, dtype=torch.int64, device=device),
        }
        if self.has_masks:
            target["masks"] = torch.ones(_EXAMPLES, *size, dtype=torch.uint8, device=device)
        if "class_map" in self.reads:
            target["class_map"] = torch.zeros(size, dtype=torch.uint8, device=device)
        draws = [torch.tensor(place, device=device) for place in range(images)]
        return pixels, [{**target, "draw": draw} for draw in draws]


class Instances(Detection):
    """As `Detection`, with `masks` in targets and predictions."""

    facts: ClassVar[TaskFacts] = INSTANCES
    reads: ClassVar[frozenset[str]] = Detection.reads | {"masks", "class_map"}  # maps for the semantic branch of HTC


class PredictionEvaluator:
    """COCO's metrics of predictions at the size of the network's input.

    Args:
        facts: Facts of the task, which name the metrics.
        masks: Evaluates masks as well.
    """

    def __init__(self, facts: TaskFacts, *, masks: bool) -> None:
        self._facts = facts
        self._objects = DetectionEvaluator(masks=masks)

    def update(self, predictions: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]]) -> None:
        """Add the images of a batch.

        Args:
            predictions: Predictions of the network.
            targets: Targets of an evaluation transform.
        """
        pairs = zip(predictions, targets, strict=True)
        self._objects.update([prediction_to_original(*pair) for pair in pairs], targets)

    def all_reduce(self, workers: Workers) -> None:
        """Combine the images of all ranks; every rank must call."""
        self._objects.all_reduce(workers)

    def compute(self) -> dict[str, float]:
        """Return the metrics by name, without those of a size of which no object is annotated.

        Raises:
            DataError: No object is annotated at all.
        """
        values = self._objects.compute()
        found = {metric.name: values[metric.name] for metric in self._facts.metrics}
        if math.isnan(found[self._facts.primary.name]):
            raise _without_objects(self._facts)
        return {name: value for name, value in found.items() if not math.isnan(value)}


def _without_objects(facts: TaskFacts) -> DataError:
    rule = f"no validation image, or no test image, has an object that counts, and {facts.primary.in_words} needs one"
    return DataError(f"{facts.name}: {rule}. Use other images, or a larger dataset.validation_fraction")


def _shape(description: Mapping[str, Any]) -> dict[str, int]:
    return {key: description[key] for key in ("num_classes", "in_chans", "image_size")}
