"""Images with their targets: checks, torchvision's types for transforms, and the removal of empty boxes.

An image is a tensor (3, H, W). A target is a flat dictionary; of its keys, transforms change `boxes` (N, 4), `masks`
(N, H, W) and `class_map` (H, W), and a removed box takes its entries of `labels`, `masks`, `iscrowd` and `area` along.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from orchestrator.data.scenes.target import IGNORED
from orchestrator.errors import DataError

__all__ = ["IGNORED", "ClassMap", "Target", "plain", "typed", "without_empty_boxes"]

Target = dict[str, Any]
"""Annotations of one image."""

_PER_BOX = ("boxes", "labels", "masks", "iscrowd", "area")


class ClassMap(tv_tensors.Mask):
    """Class of every pixel, (H, W); a type of its own since it is padded with 255, where masks of objects get 0."""


def typed(image: Tensor, target: Target) -> tuple[tv_tensors.Image, Target]:
    """Check a sample and give its tensors the types by which torchvision's transforms recognise them.

    Args:
        image: Pixels, (3, H, W).
        target: Annotations; keys that transforms do not change are kept as they are.

    Raises:
        DataError: A tensor has another shape than its image or the other annotations.
    """
    if image.dim() != 3 or image.shape[0] != 3:
        raise DataError(f"image: got the shape {tuple(image.shape)}; an image is (3, height, width)")
    height, width = image.shape[-2:]
    boxes = target.get("boxes")
    _check(target, None if boxes is None else len(boxes), (height, width))
    result = dict(target)
    if boxes is not None:
        result["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
    if "masks" in target:
        result["masks"] = tv_tensors.Mask(target["masks"])
    if "class_map" in target:
        result["class_map"] = ClassMap(target["class_map"])
    return tv_tensors.Image(image), result


def plain(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Remove torchvision's types from a sample, so that later arithmetic is that of plain tensors."""
    return image.as_subclass(Tensor), {
        key: value.as_subclass(Tensor) if isinstance(value, tv_tensors.TVTensor) else value
        for key, value in target.items()
    }


def without_empty_boxes(target: Target, before: Target, *, min_side_px: float = 1.0) -> Target:
    """Remove the boxes that a transform has emptied, and set the areas of the others.

    A box is empty if a side is shorter than `min_side_px`, or if its mask has no pixel left. The area of an object is
    the number of pixels of its mask or, without masks, changes as that of its box.

    Args:
        target: Annotations after the transform.
        before: Annotations before it, with the same boxes.
        min_side_px: Shortest side of a box, in pixels.
    """
    if "boxes" not in target:
        return target
    boxes = target["boxes"].as_subclass(Tensor)
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = (sides >= min_side_px).all(dim=1)
    result = dict(target)
    pixels = _pixels(target["masks"]) if "masks" in target else None
    if pixels is not None:
        kept &= pixels > 0
    if "area" in target:
        former = before["boxes"].as_subclass(Tensor)
        former_area = (former[:, 2:] - former[:, :2]).prod(dim=1)
        scaled = before["area"] * sides.prod(dim=1) / former_area.clamp(min=torch.finfo(former_area.dtype).tiny)
        result["area"] = scaled if pixels is None else pixels.to(target["area"].dtype)
    if not kept.all():
        for key in _PER_BOX:
            if key in result:
                result[key] = result[key].as_subclass(Tensor)[kept]
    return result


def _pixels(masks: Tensor) -> Tensor:
    """Return the number of pixels of each mask, (N,)."""
    # NumPy counts a hundred times as fast as torch on one core.
    return torch.tensor([np.count_nonzero(mask) for mask in masks.as_subclass(Tensor).numpy()], dtype=torch.int64)


def _check(target: Target, objects: int | None, size: tuple[int, int]) -> None:
    """Compare the shapes of all annotations with the number of boxes and the size of the image."""
    shapes: dict[str, tuple[int, ...]] = {"class_map": size}
    if objects is not None:
        shapes |= {"boxes": (objects, 4), "masks": (objects, *size)}
        shapes |= dict.fromkeys(("labels", "iscrowd", "area"), (objects,))
    elif "masks" in target:
        raise DataError("target: has masks and no boxes; give both, one box for every mask")
    for key, shape in shapes.items():
        if key in target and tuple(target[key].shape) != shape:
            raise DataError(
                f"target.{key}: got the shape {tuple(target[key].shape)}; with an image of {size[0]} x {size[1]} px"
                f"{'' if objects is None else f' and {objects} boxes'} it is {shape}"
            )
