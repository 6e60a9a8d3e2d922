"""Tensors of an annotated image, as torchvision's networks and transforms take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors

from orchestrator.data.scenes.target import Annotation, SceneTarget

__all__ = ["image_tensor", "target_tensors"]


def image_tensor(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Return an image, uint8, (3, H, W).

    Args:
        pixels: Decoded image, uint8, (H, W, 3).
    """
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))  # a copy, which torch may write to


def target_tensors(
    target: SceneTarget, masks: npt.NDArray[np.uint8] | None, annotations: Sequence[Annotation]
) -> dict[str, Any]:
    """Return the annotations of an image as a flat dictionary of tensors.

    Args:
        target: Annotations of the image.
        masks: Decoded masks of the objects, uint8, (N, H, W); None without masks.
        annotations: Kinds of annotations of the dataset, which decide the keys.
    """
    tensors: dict[str, Any] = {"image_id": target.image_id}
    if "boxes" in annotations:
        boxes = torch.from_numpy(target.boxes)
        tensors["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(target.height, target.width))
        tensors["labels"] = torch.from_numpy(target.labels.astype(np.int64))
        tensors["iscrowd"] = torch.from_numpy(target.iscrowd)
        tensors["area"] = torch.from_numpy(target.area)
    if masks is not None:
        tensors["masks"] = tv_tensors.Mask(torch.from_numpy(masks))
    if target.class_map is not None:
        tensors["class_map"] = tv_tensors.Mask(torch.from_numpy(target.class_map))
    return tensors
