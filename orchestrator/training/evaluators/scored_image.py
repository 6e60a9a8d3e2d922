"""Detections and annotations of one image in a compact form: rows of numbers, and run-length encoded masks.

Rows are float64, which holds every float32 and every label exactly.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from orchestrator.errors import DataError

__all__ = ["MOST_DETECTIONS", "ScoredImage", "coco_library", "pack", "scored_image", "unpack"]

Rows = npt.NDArray[np.float64]

MOST_DETECTIONS = 100
"""Number of detections of one class in one image that count, those with the largest scores."""


@dataclass(frozen=True)
class ScoredImage:
    """Detections and annotations of one image.

    Args:
        size: Height and width of the masks, in pixels; zeros without masks.
        detections: Corners of the box, score and label of each detection, (N, 6).
        annotations: Corners of the box, label, `iscrowd` and area of each object, (M, 7).
        masks: COCO's compressed run-length code of the mask of each detection, then of each object; empty without
            masks.
    """

    size: tuple[int, int]
    detections: Rows
    annotations: Rows
    masks: tuple[bytes, ...]

    def digest(self) -> int:
        """Return a checksum of the annotations, which are the same on every rank."""
        checksum = zlib.crc32(self.annotations.tobytes())
        for mask in self.masks[len(self.detections) :]:
            checksum = zlib.crc32(mask, checksum)
        return checksum


def coco_library() -> Any:
    """Return the package faster_coco_eval, which is imported when it is used.

    Raises:
        DataError: It is not installed.
    """
    try:
        import faster_coco_eval
    except ImportError:
        raise DataError("COCO metrics need faster-coco-eval: pip install 'spatialsweep[detection]'") from None
    return faster_coco_eval


def scored_image(prediction: Mapping[str, Any], target: Mapping[str, Any], *, masks: bool) -> ScoredImage:
    """Check a prediction and a target of one image, and bring them into a compact form.

    Args:
        prediction: `boxes` (N, 4), `scores` (N,), `labels` (N,) and, with masks, `masks`, (N, H, W) or (N, 1, H, W):
            booleans, or probabilities of which those from 0.5 belong to the object.
        target: `boxes` (M, 4), `labels` (M,), and `masks` (M, H, W) with masks; `iscrowd` (M,) is 0 and `area` (M,)
            that of the mask or of the box unless given.
        masks: Reads masks as well.

    Raises:
        DataError: Something is missing, has another shape, or is not a number.
    """
    where = f"image {target.get('image_id', '?')}"
    found = _columns(where, "prediction", prediction, {"boxes": (4,), "scores": (), "labels": ()})
    truth = _columns(where, "target", target, {"boxes": (4,), "labels": ()})
    given = _columns(where, "target", target, {key: () for key in ("iscrowd", "area") if key in target})
    kept = _largest_scores(found)
    detections = np.concatenate([found["boxes"], found["scores"][:, None], found["labels"][:, None]], axis=1)[kept]
    size, codes = (0, 0), []
    pixels: Rows | None = None
    if masks:
        detected = _masks(where, "prediction", prediction, len(found["boxes"]))[torch.from_numpy(kept)]
        annotated = _masks(where, "target", target, len(truth["boxes"]))
        sizes = {tuple(each.shape[1:]) for each in (detected, annotated) if len(each)}
        if len(sizes) > 1:
            raise DataError(
                f"{where}: masks have the sizes {' and '.join(map(str, sorted(sizes)))} in prediction and target; "
                "predictions are scored at the size of the image"
            )
        height, width = (detected if len(detected) else annotated).shape[1:]
        size = (height, width)
        codes = [*_encoded(detected), *_encoded(annotated)]
        pixels = annotated.flatten(1).sum(1, dtype=torch.int64).double().numpy() if len(annotated) else np.zeros(0)
    objects = len(truth["boxes"])
    sides = truth["boxes"][:, 2:] - truth["boxes"][:, :2]
    default = {"iscrowd": np.zeros(objects), "area": sides.prod(axis=1) if pixels is None else pixels}
    crowd, area = ({**default, **given}[key] for key in ("iscrowd", "area"))
    columns = [truth["boxes"], truth["labels"][:, None], crowd[:, None], area[:, None]]
    return ScoredImage(size, detections, np.concatenate(columns, axis=1), tuple(codes))


def pack(images: Mapping[int, ScoredImage]) -> bytes:
    """Return images by number as bytes, which `unpack` reads without running code from them.

    Args:
        images: Images by number.
    """
    sizes = [
        [number, *each.size, len(each.detections), len(each.annotations), len(each.masks)]
        for number, each in images.items()
    ]
    codes = [code for each in images.values() for code in each.masks]
    arrays = [
        np.array(sizes, np.int64).reshape(-1, 6),
        np.concatenate([np.zeros((0, 6)), *(each.detections for each in images.values())]),
        np.concatenate([np.zeros((0, 7)), *(each.annotations for each in images.values())]),
        np.array([len(code) for code in codes], np.int64),
        np.frombuffer(b"".join(codes), np.uint8),
    ]
    file = io.BytesIO()
    for array in arrays:
        np.save(file, array, allow_pickle=False)
    return file.getvalue()


def unpack(content: bytes) -> dict[int, ScoredImage]:
    """Return the images of a result of `pack`.

    Args:
        content: Result of `pack`.
    """
    file = io.BytesIO(content)
    sizes, detections, annotations, lengths, joined = (np.load(file, allow_pickle=False) for _ in range(5))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    codes = [joined[start : start + length].tobytes() for start, length in zip(starts, lengths, strict=False)]
    images, first, second, third = {}, 0, 0, 0
    for number, height, width, detected, annotated, masks in sizes.tolist():
        images[number] = ScoredImage(
            (height, width),
            detections[first : first + detected],
            annotations[second : second + annotated],
            tuple(codes[third : third + masks]),
        )
        first, second, third = first + detected, second + annotated, third + masks
    return images


def _columns(
    where: str, kind: str, source: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, npt.NDArray[np.float64]]:
    """Return some tensors as float64 arrays with one row for every box."""
    columns: dict[str, npt.NDArray[np.float64]] = {}
    for key, shape in shapes.items():
        if key not in source:
            raise DataError(f"{where}: {kind}.{key} is missing; it has {', '.join(source) or 'nothing'}")
        column = torch.as_tensor(source[key]).detach().double().cpu().as_subclass(Tensor).numpy()
        rows = len(source["boxes"])
        if column.shape != (rows, *shape):
            raise DataError(
                f"{where}: {kind}.{key} has the shape {column.shape}; with {rows} boxes it is {(rows, *shape)}"
            )
        if not np.isfinite(column).all():
            raise DataError(f"{where}: {kind}.{key} has a value that is not a finite number")
        columns[key] = column
    labels = columns.get("labels", np.ones(1))
    if (labels < 1).any():
        raise DataError(f"{where}: {kind}.labels has {int(labels.min())}; labels are from 1, and 0 is the background")
    return columns


def _largest_scores(found: Mapping[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.int64]:
    """Return the positions of the detections that count, in their order: the first of equal scores."""
    by_score = np.argsort(-found["scores"], kind="stable")
    labels = found["labels"][by_score]
    kept = [by_score[labels == label][:MOST_DETECTIONS] for label in np.unique(labels)]
    return np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)


def _masks(where: str, kind: str, source: Mapping[str, Any], boxes: int) -> Tensor:
    """Return masks as uint8 (N, H, W)."""
    if "masks" not in source:
        raise DataError(f"{where}: {kind}.masks is missing; give masks, or evaluate boxes alone")
    masks: Tensor = source["masks"].as_subclass(Tensor)
    if masks.dim() == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.dim() != 3 or len(masks) != boxes:
        raise DataError(
            f"{where}: {kind}.masks has the shape {tuple(masks.shape)}; with {boxes} boxes it is ({boxes}, H, W)"
        )
    binary = masks >= 0.5 if masks.is_floating_point() else masks != 0
    return binary.to(torch.uint8).cpu()


def _encoded(masks: Tensor) -> Sequence[bytes]:
    """Return the run-length code of each mask, (N, H, W)."""
    if not len(masks):
        return []
    by_columns = masks.transpose(1, 2).contiguous().numpy().transpose(2, 1, 0)  # as Fortran stores (H, W, N)
    return [code["counts"] for code in coco_library().mask.encode(by_columns)]
