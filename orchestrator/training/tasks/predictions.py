"""Predictions for one image, as drawings, tables and files take them, whatever the network and its input size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from orchestrator.training.augmentations.original_size import prediction_to_original

__all__ = ["PredictedClass", "PredictedMap", "PredictedObjects", "Prediction", "predicted_objects"]

_PER_OBJECT = ("boxes", "labels", "scores", "masks")


@dataclass(frozen=True)
class PredictedClass:
    """Probability of each class.

    Args:
        probabilities: Probabilities, float32, (num_classes,).
    """

    probabilities: Tensor


@dataclass(frozen=True)
class PredictedMap:
    """Class of every pixel.

    Args:
        class_map: Classes from 0, integers, of the size of the original image, (H, W).
    """

    class_map: Tensor


@dataclass(frozen=True)
class PredictedObjects:
    """Detected objects, in pixels of the original image.

    Args:
        boxes: Corners x1, y1, x2, y2, float32, (N, 4).
        labels: Classes from 1, int64, (N,).
        scores: Scores, float32, (N,).
        masks: Masks, bool, (N, H, W); None where the network predicts none.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor | None = None


Prediction: TypeAlias = PredictedClass | PredictedMap | PredictedObjects


def predicted_objects(
    outputs: Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]], *, least_score: float = 0.0
) -> list[PredictedObjects]:
    """Return the detections of a batch in pixels of the original images.

    Args:
        outputs: For each image `boxes`, `labels`, `scores` and, where predicted, `masks`, as torchvision's detectors
            return them.
        targets: Targets of an evaluation transform, with the size of the network's input and of the original image.
        least_score: Smallest score of a detection.
    """
    found = []
    for output, target in zip(outputs, targets, strict=True):
        kept = output["scores"] >= least_score  # ahead of the masks, which are large at the original size
        few = {key: output[key][kept] for key in _PER_OBJECT if key in output}
        mapped = prediction_to_original(few, dict(target))
        found.append(PredictedObjects(mapped["boxes"], mapped["labels"], mapped["scores"], mapped.get("masks")))
    return found
