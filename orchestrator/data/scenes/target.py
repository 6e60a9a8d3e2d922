"""Annotations of one image in the form in which they are stored: arrays, run lengths, and a map of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["ANNOTATIONS", "IGNORED", "Annotation", "ClassMap", "SceneTarget"]

Annotation = Literal["boxes", "masks", "class_map"]
ANNOTATIONS: tuple[Annotation, ...] = ("boxes", "masks", "class_map")
"""Kinds of annotations that a dataset may have; masks come with boxes."""

IGNORED = 255
"""Value of the pixels of a class map that belong to no class."""

ClassMap = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class SceneTarget:
    """Annotations of one image. A dataset without boxes has no objects.

    Args:
        image_id: Number of the image in its dataset.
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.
        boxes: Corners x1, y1, x2, y2 of each object in pixels, float32, (N, 4).
        labels: Class of each object from 1, int32, (N,).
        iscrowd: 1 for a group of objects that evaluation ignores, else 0, uint8, (N,).
        area: Area of each object in square pixels, float32, (N,).
        masks: COCO's compressed run lengths of each object; None without masks.
        class_map: Class of each pixel from 0, or `IGNORED`, uint8, (H, W); None without a map.
    """

    image_id: int
    width: int
    height: int
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    iscrowd: npt.NDArray[np.uint8]
    area: npt.NDArray[np.float32]
    masks: tuple[bytes, ...] | None = None
    class_map: ClassMap | None = None

    @classmethod
    def without_objects(cls, image_id: int, class_map: ClassMap) -> SceneTarget:
        """Return the target of an image that has a map of classes alone."""
        return cls(
            image_id=image_id,
            width=class_map.shape[1],
            height=class_map.shape[0],
            boxes=np.zeros((0, 4), np.float32),
            labels=np.zeros(0, np.int32),
            iscrowd=np.zeros(0, np.uint8),
            area=np.zeros(0, np.float32),
            class_map=class_map,
        )
