"""COCO's average precision and recall of boxes and masks, computed by faster-coco-eval."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from orchestrator.training.evaluators.exchange import add_digest, counted_images, gather_bytes, image_number
from orchestrator.training.evaluators.scored_image import ScoredImage, coco_library, pack, scored_image, unpack
from orchestrator.training.workers import Workers

__all__ = ["BOX_METRICS", "MASK_METRICS", "DetectionEvaluator"]

_LIBRARY_NAMES = {
    "ap": "AP_all",
    "ap50": "AP_50",
    "ap75": "AP_75",
    "ap_small": "AP_small",
    "ap_medium": "AP_medium",
    "ap_large": "AP_large",
    "ar1": "AR_all",
    "ar10": "AR_second",
    "ar100": "AR_third",
    "ar_small": "AR_small",
    "ar_medium": "AR_medium",
    "ar_large": "AR_large",
}

BOX_METRICS = tuple(_LIBRARY_NAMES)
"""Names of the metrics of boxes; the larger, the better."""

MASK_METRICS = tuple(f"mask_{name}" for name in BOX_METRICS)
"""Names of the metrics of masks; the larger, the better."""

_log = logging.getLogger(__name__)


class DetectionEvaluator:
    """COCO's metrics of boxes and, on request, of masks.

    Images are scored together and in the order of their numbers, so that the result depends neither on the number of
    ranks nor on the order in which they evaluate. Only the first rank holds all images, with masks as run-length codes.

    Args:
        masks: Evaluates masks as well.

    Raises:
        DataError: faster-coco-eval is not installed.
    """

    def __init__(self, *, masks: bool = False) -> None:
        coco_library()
        self.masks = masks
        self._digests: dict[int, int] = {}
        self._images: dict[int, ScoredImage] = {}
        self._metrics: dict[str, float] | None = None

    def update(self, predictions: Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]]) -> None:
        """Add the images of a batch; see `scored_image` for what predictions and targets hold.

        Args:
            predictions: Detections of each image at its original size.
            targets: Annotations and `image_id` of each image.

        Raises:
            DataError: Something is missing or invalid, or two images have one number.
            RuntimeError: The images of all ranks have been combined.
        """
        self._check_open()
        for prediction, target in zip(predictions, targets, strict=True):
            number = image_number(target)
            image = scored_image(prediction, target, masks=self.masks)
            if add_digest(self._digests, number, image.digest()):
                self._images[number] = image

    def all_reduce(self, workers: Workers) -> None:
        """Score the images of all ranks on the first one, and share the result; a collective operation.

        Args:
            workers: This rank and its process group.

        Raises:
            RuntimeError: The images of all ranks have been combined.
        """
        self._check_open()
        counted = {number: self._images[number] for number in counted_images(self._digests, workers)}
        if workers.world_size > 1:
            received = gather_bytes(pack(counted), workers)
            counted = {number: image for each in received for number, image in unpack(each).items()}
        metrics = self._scored(counted) if workers.is_first else {}
        self._metrics = workers.broadcast_from_first(metrics)
        self._images.clear()

    def compute(self) -> dict[str, float]:
        """Return the metrics; those of a size of which no object is annotated are NaN."""
        return self._scored(self._images) if self._metrics is None else dict(self._metrics)

    def _check_open(self) -> None:
        if self._metrics is not None:
            raise RuntimeError("the images of all ranks have been combined by all_reduce(); create another evaluator")

    def _scored(self, images: Mapping[int, ScoredImage]) -> dict[str, float]:
        ordered = {number: images[number] for number in sorted(images)}
        metrics = dict(zip(BOX_METRICS, _coco_metrics(ordered, "bbox"), strict=True))
        if self.masks:
            metrics |= dict(zip(MASK_METRICS, _coco_metrics(ordered, "segm"), strict=True))
        return metrics


def _coco_metrics(images: Mapping[int, ScoredImage], kind: Literal["bbox", "segm"]) -> list[float]:
    """Return the twelve metrics in the order of `BOX_METRICS`."""
    annotations = [row for number, image in images.items() for row in _annotations(number, image, kind)]
    if not annotations:
        return [math.nan] * len(_LIBRARY_NAMES)
    for place, annotation in enumerate(annotations):
        annotation["id"] = place + 1
    categories = sorted({annotation["category_id"] for annotation in annotations})
    described = [{"id": number, "height": each.size[0], "width": each.size[1]} for number, each in images.items()]
    library = coco_library()
    truth = library.COCO(
        {
            "images": described,
            "annotations": annotations,
            "categories": [{"id": each, "name": str(each)} for each in categories],
        },
        print_function=_log.debug,
    )
    known = set(categories)
    found = truth.loadRes(
        [
            row
            for number, image in images.items()
            for row in _detections(number, image, kind)
            if row["category_id"] in known
        ]
    )
    evaluation = library.COCOeval_faster(truth, found, kind, print_function=_log.debug)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    values = [float(evaluation.stats_as_dict[name]) for name in _LIBRARY_NAMES.values()]
    return [math.nan if value < 0 else value for value in values]  # the library writes -1 where there is no object


def _annotations(number: int, image: ScoredImage, kind: str) -> list[dict[str, Any]]:
    """Return the annotations of an image as COCO's dictionaries."""
    rows: list[dict[str, Any]] = []
    masks = image.masks[len(image.detections) :]
    for place, (left, top, right, bottom, label, crowd, area) in enumerate(image.annotations.tolist()):
        row = {"image_id": number, "category_id": int(label), "iscrowd": int(crowd), "area": area}
        row["bbox"] = [left, top, right - left, bottom - top]
        if kind == "segm":
            row["segmentation"] = {"size": list(image.size), "counts": masks[place]}
        rows.append(row)
    return rows


def _detections(number: int, image: ScoredImage, kind: str) -> list[dict[str, Any]]:
    """Return the detections of an image as COCO's dictionaries, of which masks have no box: their area counts."""
    rows: list[dict[str, Any]] = []
    for place, (left, top, right, bottom, score, label) in enumerate(image.detections.tolist()):
        row: dict[str, Any] = {"image_id": number, "category_id": int(label), "score": score}
        if kind == "segm":
            row["segmentation"] = {"size": list(image.size), "counts": image.masks[place]}
        else:
            row["bbox"] = [left, top, right - left, bottom - top]
        rows.append(row)
    return rows
