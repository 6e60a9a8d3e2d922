"""Results for one image file, in names and numbers that need no further knowledge of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from orchestrator.data.scenes.masks import encode_mask
from orchestrator.training.tasks.predictions import PredictedClass, PredictedMap, PredictedObjects, Prediction

__all__ = [
    "ClassScore",
    "ClassShare",
    "ClassifiedImage",
    "DetectedImage",
    "DetectedObject",
    "PredictedImage",
    "SegmentedImage",
    "class_shares",
    "detected_objects",
    "result_of",
]


@dataclass(frozen=True)
class ClassScore:
    """Class with its probability.

    Args:
        label: Number of the class, from 0.
        name: Name of the class.
        probability: Probability.
    """

    label: int
    name: str
    probability: float


@dataclass(frozen=True)
class ClassShare:
    """Class with its share of an image.

    Args:
        label: Number of the class, from 0.
        name: Name of the class.
        share: Share of the pixels.
    """

    label: int
    name: str
    share: float


@dataclass(frozen=True)
class DetectedObject:
    """Detected object.

    Args:
        label: Number of the class, from 1.
        name: Name of the class.
        score: Score.
        box: Corners x1, y1, x2, y2 in pixels of the original image.
        mask: Pixels of the object, bool, (H, W); None where the network predicts no masks.
    """

    label: int
    name: str
    score: float
    box: tuple[float, float, float, float]
    mask: Tensor | None = field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the object as plain data, its mask as COCO's compressed run lengths.

        Raises:
            DataError: It has a mask, and faster-coco-eval is not installed.
        """
        found = {"label": self.label, "name": self.name, "score": self.score, "box": list(self.box)}
        if self.mask is None:
            return found
        counts = encode_mask(self.mask.cpu().numpy().astype(np.uint8)).decode("ascii")
        return {**found, "mask": {"size": list(self.mask.shape), "counts": counts}}


@dataclass(frozen=True, kw_only=True)
class PredictedImage:
    """Result for one image file.

    Args:
        path: Path of the file.
        width: Width of the upright image in pixels.
        height: Height of the upright image in pixels.
    """

    path: Path
    width: int
    height: int

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data, which JSON can hold."""
        return {"image": str(self.path), "width": self.width, "height": self.height}


@dataclass(frozen=True, kw_only=True)
class ClassifiedImage(PredictedImage):
    """Result of classification.

    Args:
        classes: Most probable classes, the first one first.
    """

    classes: tuple[ClassScore, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data; see `PredictedImage`."""
        return {**super().as_dict(), "classes": [vars(each) for each in self.classes]}


@dataclass(frozen=True, kw_only=True)
class SegmentedImage(PredictedImage):
    """Result of semantic segmentation.

    Args:
        classes: Classes that occur, the largest share first.
        class_map: Class of every pixel of the original image, integers, (H, W).
    """

    classes: tuple[ClassShare, ...]
    class_map: Tensor = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data without the map; see `PredictedImage`."""
        return {**super().as_dict(), "classes": [vars(each) for each in self.classes]}


@dataclass(frozen=True, kw_only=True)
class DetectedImage(PredictedImage):
    """Result of detection.

    Args:
        objects: Detected objects, the highest score first.
    """

    objects: tuple[DetectedObject, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data; see `PredictedImage`."""
        return {**super().as_dict(), "objects": [each.as_dict() for each in self.objects]}


def result_of(
    prediction: Prediction, path: Path, size: tuple[int, int], class_names: Sequence[str], top: int
) -> ClassifiedImage | SegmentedImage | DetectedImage:
    """Return the result for an image file.

    Args:
        prediction: Prediction for the image.
        path: Path of the file.
        size: Height and width of the image in pixels.
        class_names: Names of the network's classes.
        top: Number of classes of an image to keep, in classification.
    """
    height, width = size
    if isinstance(prediction, PredictedClass):
        best = _most_probable(prediction, class_names, top)
        return ClassifiedImage(path=path, height=height, width=width, classes=best)
    if isinstance(prediction, PredictedMap):
        class_map = prediction.class_map.cpu()
        shares = class_shares(class_map, class_names)
        return SegmentedImage(path=path, height=height, width=width, classes=shares, class_map=class_map)
    return DetectedImage(path=path, height=height, width=width, objects=detected_objects(prediction, class_names))


def _most_probable(prediction: PredictedClass, class_names: Sequence[str], top: int) -> tuple[ClassScore, ...]:
    values, labels = prediction.probabilities.sort(descending=True, stable=True)
    best = zip(labels[:top].tolist(), values[:top].tolist(), strict=True)
    return tuple(ClassScore(label, class_names[label], probability) for label, probability in best)


def class_shares(class_map: Tensor, class_names: Sequence[str]) -> tuple[ClassShare, ...]:
    """Return the classes of a map by their share of its pixels, the largest first; ignored pixels have no class.

    Args:
        class_map: Class of every pixel from 0, integers, (H, W); 255 is ignored.
        class_names: Names of the classes.
    """
    labels, counts = class_map.unique(return_counts=True)
    shares = zip(labels.tolist(), (counts / class_map.numel()).tolist(), strict=True)
    ordered = sorted(shares, key=lambda pair: (-pair[1], pair[0]))
    return tuple(ClassShare(label, class_names[label], share) for label, share in ordered if label < len(class_names))


def detected_objects(prediction: PredictedObjects, class_names: Sequence[str]) -> tuple[DetectedObject, ...]:
    """Return the objects of an image by their score, the highest first.

    Args:
        prediction: Objects of the image.
        class_names: Names of the classes; label 1 is the first.
    """
    order = prediction.scores.argsort(descending=True, stable=True).tolist()
    boxes, labels, scores = (each.tolist() for each in (prediction.boxes, prediction.labels, prediction.scores))
    masks = None if prediction.masks is None else prediction.masks.cpu()
    return tuple(
        DetectedObject(
            label=labels[place],
            name=class_names[labels[place] - 1],
            score=scores[place],
            box=tuple(boxes[place]),
            mask=None if masks is None else masks[place],
        )
        for place in order
    )
