"""Semantic segmentation: a class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

import models
from models.segmentation import build_segmentor, segmentor_cost
from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.tasks.facts import TaskFacts
from orchestrator.config.tasks.segmentation import SEGMENTATION
from orchestrator.training.augmentations.batches import padded_batch
from orchestrator.training.augmentations.original_size import resized_rows
from orchestrator.training.augmentations.samples import IGNORED
from orchestrator.training.augmentations.segmentation_modes import predict_windows
from orchestrator.training.augmentations.transforms import Channels, SegmentationTransforms
from orchestrator.training.evaluators.segmentation import SegmentationEvaluator
from orchestrator.training.images.split import Batch
from orchestrator.training.tasks.predictions import PredictedMap
from orchestrator.training.tasks.scenes import SceneSplit, SceneTask
from orchestrator.training.tasks.task import Predictor
from orchestrator.training.workers import Workers

__all__ = ["LogitsEvaluator", "Segmentation"]

_LONGEST = 4  # sides of the longer side of an image, at most, over those of the shorter one
_MULTIPLE = 32  # pixels that divide the sides of evaluated images, where they divide the image size
_STRIDE = 2 / 3  # distance of two windows over their side


class Segmentation(SceneTask):
    """Logits (B, num_classes, H, W); class maps (B, H, W) in training, those of the original images in evaluation."""

    facts: ClassVar[TaskFacts] = SEGMENTATION
    reads: ClassVar[frozenset[str]] = frozenset({"class_map", "image_id"})

    def build_network(self, description: Mapping[str, Any]) -> nn.Module:
        """Build a backbone with a head; see `Task`."""
        options = models.options_of_record(description["name"], description["options"])
        return build_segmentor(description["name"], options, **_shape(description))

    def model_cost(self, description: Mapping[str, Any]) -> models.ModelCost:
        """Return the cost of backbone and head; see `Task`."""
        return segmentor_cost(description["name"], description["options"], **_shape(description))

    def output_shape(self, description: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the shape of the logits of an image of the trained size; see `Task`."""
        side = description["image_size"]
        return (description["num_classes"], side, side)

    def transforms(self, split: SceneSplit, training: TrainingConfig | None) -> SegmentationTransforms:
        """Return the settings of the transforms: images are resized keeping their ratio; see `SceneTask`."""
        side = split.image_size
        augmentation: dict[str, Any] = {"factors": (1.0, 1.0)} if training is None else _augmentation(training, side)
        return SegmentationTransforms(
            short_px=side,
            long_px=_LONGEST * side,
            **augmentation,
            mean=cast(Channels, split.channels[0]),
            std=cast(Channels, split.channels[1]),
            multiple=_MULTIPLE if side % _MULTIPLE == 0 else 1,
        )

    def collate(self, images: Sequence[Tensor], targets: Sequence[Any]) -> Batch:
        """Stack training crops and their maps; pad evaluated images, whose targets stay apart; see `SampledTask`."""
        if "original_size" in targets[0]:
            return padded_batch(list(zip(images, targets, strict=True)), multiple=1).images, list(targets)
        return torch.stack(list(images)), {"class_map": torch.stack([each["class_map"] for each in targets]).long()}

    def example_batch(
        self, description: Mapping[str, Any], training: TrainingConfig, *, images: int, side: int, device: torch.device
    ) -> Batch:
        """Return black images and maps of the first class; see `Task`."""
        del training
        pixels = torch.zeros(images, description["in_chans"], side, side, device=device)
        return pixels, {"class_map": torch.zeros(images, side, side, dtype=torch.int64, device=device)}

    def forward(self, network: Any, images: Tensor, targets: Mapping[str, Tensor]) -> Any:
        """Return the losses of the head and of the second head, where there is one; see `Task`."""
        return network(images, targets["class_map"])

    def loss_sum(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], training: TrainingConfig
    ) -> Tensor:
        """Return the loss summed over the pixels with a class; see `Task`."""
        del training
        total: Tensor = torch.stack(list(outputs.values())).float().sum() * self.loss_count(targets)
        return total

    def loss_count(self, targets: Mapping[str, Tensor]) -> Tensor:
        """Return the number of pixels with a class; see `Task`."""
        return (targets["class_map"] != IGNORED).sum()

    def predict(self, predictor: Predictor, images: Tensor, tta: str) -> Tensor:
        """Return logits; networks that read images of one size alone predict overlapping windows; see `Task`."""
        del tta  # see `SEGMENTATION`
        side = cast(int | None, predictor.evaluated.only_px)
        if side is None:
            logits: Tensor = predictor.predict(images)
            return logits
        stride_px = max(1, int(_STRIDE * side))
        return predict_windows(predictor.predict, images, crop_px=side, stride_px=stride_px, multiple=side)

    def predictions(
        self, outputs: Tensor, targets: Sequence[Mapping[str, Any]], *, least_score: float = 0.0
    ) -> list[PredictedMap]:
        """Return the class maps at the size of the original images; see `Task`."""
        del least_score
        return [PredictedMap(_class_map(*pair)) for pair in zip(outputs, targets, strict=True)]

    def create_evaluator(self, num_classes: int, device: torch.device) -> LogitsEvaluator:
        """Return a new evaluator; see `Task`."""
        del device  # counts are kept on the processor
        return LogitsEvaluator(num_classes)


class LogitsEvaluator:
    """Metrics `miou`, `pixel_accuracy` and `mean_accuracy` of logits at the size of the network's input.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        self._maps = SegmentationEvaluator(num_classes)

    def update(self, predictions: Tensor, targets: Sequence[Mapping[str, Any]]) -> None:
        """Add the images of a batch.

        Args:
            predictions: Logits (B, num_classes, H, W), padding included.
            targets: Targets of an evaluation transform.
        """
        self._maps.update([_class_map(*pair) for pair in zip(predictions, targets, strict=True)], targets)

    def all_reduce(self, workers: Workers) -> None:
        """Combine the images of all ranks; every rank must call."""
        self._maps.all_reduce(workers)

    def compute(self) -> dict[str, float]:
        """Return the metrics by name."""
        return self._maps.compute()


def _class_map(logits: Tensor, target: Mapping[str, Any]) -> Tensor:
    """Return the most likely class of every pixel of the original image, (H, W)."""
    (height, width), size = target["input_size"].tolist(), tuple(target["original_size"].tolist())
    inside = logits[:, :height, :width]
    if (height, width) == size:
        return inside.argmax(0)
    return torch.cat([part.argmax(0) for part in resized_rows(inside, size)])


def _augmentation(training: TrainingConfig, side: int) -> dict[str, Any]:
    """Return the settings of the transforms of training images."""
    ratio = training.cat_max_ratio
    return {
        "factors": (1.0, 1.0) if training.scale_range is None else training.scale_range,
        "crop_px": side if training.crop_px is None else training.crop_px,
        "hflip": training.hflip,
        "photometric": training.photometric,
        **({} if ratio is None else {"cat_max_ratio": ratio}),
    }


def _shape(description: Mapping[str, Any]) -> dict[str, int]:
    return {key: description[key] for key in ("num_classes", "in_chans", "image_size")}
