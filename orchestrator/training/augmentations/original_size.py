"""Maps of predictions from the size of the network's input to that of the original image.

An evaluation transform resizes and then pads at the right and at the bottom; its inverse cuts the padding and resizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from orchestrator.training.augmentations.samples import Target

__all__ = ["boxes_to_original", "masks_to_original", "prediction_to_original", "resized_rows"]

Size = tuple[int, int]
"""Height and width, in pixels."""

_VALUES_AT_ONCE = 2**24  # of resized maps: 64 MB


def boxes_to_original(boxes: Tensor, input_size: Size, original_size: Size) -> Tensor:
    """Return boxes in pixels of the original image, cut at its borders.

    Args:
        boxes: Corners, (N, 4).
        input_size: Size of the resized image, without padding.
        original_size: Size of the original image.
    """
    (height, width), (original_height, original_width) = input_size, original_size
    scale = boxes.new_tensor([original_width / width, original_height / height] * 2)
    largest = boxes.new_tensor([original_width, original_height] * 2)
    return torch.minimum((boxes * scale).clamp(min=0), largest)


def masks_to_original(masks: Tensor, input_size: Size, original_size: Size, *, threshold: float = 0.5) -> Tensor:
    """Return masks of the original image, bool (N, H, W).

    Args:
        masks: Masks or probabilities, (N, h, w) or (N, 1, h, w), padding included.
        input_size: Size of the resized image, without padding.
        original_size: Size of the original image.
        threshold: Probability from which a pixel belongs to the object.
    """
    masks = masks.reshape(len(masks), *masks.shape[-2:])[:, : input_size[0], : input_size[1]]
    result = torch.zeros(len(masks), *original_size, dtype=torch.bool, device=masks.device)
    for place, mask in enumerate(masks):  # one by one: probabilities of a hundred large masks fill gigabytes
        resized = interpolate(mask[None, None].float(), original_size, mode="bilinear", align_corners=False)
        result[place] = resized[0, 0] >= threshold
    return result


def prediction_to_original(prediction: dict[str, Any], target: Target) -> dict[str, Any]:
    """Return the prediction of a detector for the original image.

    Args:
        prediction: `boxes`, and `masks` if the network predicts them, in pixels of the network's input; other keys are
            kept.
        target: Target from an evaluation transform.
    """
    (height, width), (original_height, original_width) = (
        target[key].tolist() for key in ("input_size", "original_size")
    )
    sizes = (height, width), (original_height, original_width)
    result = {**prediction, "boxes": boxes_to_original(prediction["boxes"], *sizes)}
    if "masks" in prediction:
        result["masks"] = masks_to_original(prediction["masks"], *sizes)
    return result


def resized_rows(maps: Tensor, size: Size) -> Iterator[Tensor]:
    """Yield the rows of bilinearly resized maps, some at a time, so that large maps never exist as a whole.

    Args:
        maps: Float maps, (K, h, w).
        size: Height and width after resizing.

    Yields:
        Maps of consecutive rows, (K, rows, width), equal to those of `interpolate` with `align_corners=False`.
    """
    height = maps.shape[-2]
    rows_at_once = max(1, _VALUES_AT_ONCE // (len(maps) * size[1]))
    wide = interpolate(maps[None], (height, size[1]), mode="bilinear", align_corners=False)[0]
    centres = ((torch.arange(size[0], device=maps.device) + 0.5) * (height / size[0]) - 0.5).clamp(min=0)
    above = centres.floor().long().clamp(max=height - 1)
    below = (above + 1).clamp(max=height - 1)
    share = (centres - above).to(maps.dtype)[:, None]
    for first in range(0, size[0], rows_at_once):
        part = slice(first, first + rows_at_once)
        yield torch.lerp(wide[:, above[part]], wide[:, below[part]], share[part])
