"""Mean intersection over union and pixel accuracy of class maps.

Counts are those of mmsegmentation: pixels of value 255 in the truth are left out, a class that neither truth nor
prediction has is left out of the means, and a class that is only predicted counts as 0.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from orchestrator.errors import DataError
from orchestrator.training.augmentations.samples import IGNORED
from orchestrator.training.evaluators.exchange import add_digest, counted_images, image_number
from orchestrator.training.workers import Workers

__all__ = ["SEGMENTATION_METRICS", "SegmentationEvaluator"]

SEGMENTATION_METRICS = ("miou", "mean_accuracy", "pixel_accuracy")
"""Names of the metrics; the larger, the better."""


class SegmentationEvaluator:
    """Metrics of class maps.

    The pairs of classes of an image are kept as few numbers, so that memory does not grow with its pixels.

    Args:
        num_classes: Number of classes, at most 255.

    Raises:
        DataError: The number of classes is out of its range.
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes <= IGNORED:
            raise DataError(f"num_classes: got {num_classes}; it is from 1 to {IGNORED}, since {IGNORED} is ignored")
        self.num_classes = num_classes
        self._digests: dict[int, int] = {}
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}
        self._confusion: Tensor | None = None

    def update(self, predictions: Sequence[Tensor], targets: Sequence[Mapping[str, Any]]) -> None:
        """Add the images of a batch.

        Args:
            predictions: Predicted classes of each image at its original size, (H, W).
            targets: `class_map` (H, W) and `image_id` of each image.

        Raises:
            DataError: Sizes differ, a class does not exist, or two images have one number.
            RuntimeError: The images of all ranks have been combined.
        """
        self._check_open()
        for prediction, target in zip(predictions, targets, strict=True):
            number = image_number(target)
            truth = target["class_map"].cpu()
            counts = self._counts(number, prediction, truth.to(prediction.device))
            if add_digest(self._digests, number, zlib.crc32(truth.to(torch.uint8).contiguous().numpy())):
                pairs = counts.nonzero()[:, 0]
                self._pairs[number] = (pairs.to(torch.int32), counts[pairs])

    def all_reduce(self, workers: Workers) -> None:
        """Combine the images of all ranks; a collective operation.

        Args:
            workers: This rank and its process group.

        Raises:
            RuntimeError: The images of all ranks have been combined.
        """
        self._check_open()
        self._confusion = workers.sum(self._summed(counted_images(self._digests, workers)).to(workers.device)).cpu()

    @property
    def confusion(self) -> Tensor:
        """Number of pixels by class of the truth and predicted class, int64 (num_classes, num_classes)."""
        return self._summed(self._digests) if self._confusion is None else self._confusion

    def compute(self) -> dict[str, float]:
        """Return `miou`, `mean_accuracy` and `pixel_accuracy`; NaN without a pixel that counts."""
        confusion = self.confusion.double()
        right, truth = confusion.diagonal(), confusion.sum(1)
        return {
            "miou": float(self.class_ious().nanmean()),
            "mean_accuracy": float((right / truth).nanmean()),
            "pixel_accuracy": float(right.sum() / truth.sum()),
        }

    def class_ious(self) -> Tensor:
        """Return the intersection over union of each class, float64 (num_classes,); NaN for a class without pixels."""
        confusion = self.confusion.double()
        right = confusion.diagonal()
        return right / (confusion.sum(0) + confusion.sum(1) - right)

    def _check_open(self) -> None:
        if self._confusion is not None:
            raise RuntimeError("the images of all ranks have been combined by all_reduce(); create another evaluator")

    def _counts(self, number: int, prediction: Tensor, truth: Tensor) -> Tensor:
        """Return the number of pixels of each pair of classes of an image, int64 (num_classes squared,)."""
        if prediction.shape != truth.shape:
            raise DataError(
                f"image {number}: the prediction is {tuple(prediction.shape)}, the class map {tuple(truth.shape)}; "
                "predictions are scored at the size of the image"
            )
        counted = truth != IGNORED
        classes, predicted = truth[counted].long(), prediction[counted].long()
        for name, values in (("class_map", classes), ("prediction", predicted)):
            if len(values) and not 0 <= int(values.min()) <= int(values.max()) < self.num_classes:
                wrong = int(values.max() if values.max() >= self.num_classes else values.min())
                raise DataError(
                    f"image {number}: {name} has the class {wrong}; classes are from 0 to {self.num_classes - 1}, "
                    f"and {IGNORED} is ignored"
                )
        return torch.bincount(classes * self.num_classes + predicted, minlength=self.num_classes**2).cpu()

    def _summed(self, numbers: Sequence[int] | Mapping[int, int]) -> Tensor:
        """Return the confusion matrix of some images."""
        total = torch.zeros(self.num_classes**2, dtype=torch.int64)
        for number in numbers:
            pairs, counts = self._pairs[number]
            total[pairs.long()] += counts
        return total.reshape(self.num_classes, self.num_classes)
