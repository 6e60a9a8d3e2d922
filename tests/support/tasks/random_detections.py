"""Random annotations and detections of images, for evaluators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Pair = tuple[dict[str, Any], dict[str, Any]]
"""Prediction and target of an image."""

HEIGHT, WIDTH = 120, 160


def random_pairs(seed: int, *, images: int, classes: int) -> list[Pair]:
    """Draw images with crowds, ties of scores, false and repeated detections; some without objects or detections."""
    generator = torch.Generator().manual_seed(seed)
    return [_pair(number, generator, classes) for number in range(10, 10 + images)]


def _pair(number: int, generator: torch.Generator, classes: int) -> Pair:
    objects = number % 7  # none in every seventh image
    boxes = _boxes(objects, generator)
    labels = torch.randint(1, classes + 1, (objects,), generator=generator)
    masks = _masks(boxes, generator)
    target = {
        "image_id": number,
        "boxes": boxes,
        "labels": labels,
        "masks": masks.to(torch.uint8),
        "iscrowd": (torch.rand(objects, generator=generator) < 0.2).to(torch.uint8),
        "area": masks.flatten(1).sum(1).float(),
    }
    if number % 5 == 0:
        found, found_labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    else:
        moved = boxes.repeat(2, 1) + 2 * torch.randn(2 * objects, 4, generator=generator)
        found = torch.cat([_ordered(moved), _boxes(4, generator)])
        drawn = torch.randint(1, classes + 1, (len(found),), generator=generator)
        right = torch.rand(2 * objects, generator=generator) < 0.9
        found_labels = torch.cat([torch.where(right, labels.repeat(2), drawn[:-4]), drawn[-4:]])
    prediction = {
        "boxes": found,
        "labels": found_labels,
        "scores": (torch.rand(len(found), generator=generator) * 10).round() / 10,
        "masks": _masks(found, generator)[:, None].float() * 0.5 + 0.1,
    }
    return prediction, target


def _boxes(count: int, generator: torch.Generator) -> Tensor:
    corners = torch.rand(count, 4, generator=generator) * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    return _ordered(corners)


def _ordered(boxes: Tensor) -> Tensor:
    """Return boxes within the image, of at least one pixel."""
    first = torch.minimum(boxes[:, :2], boxes[:, 2:]).clamp(min=0)
    first = torch.minimum(first, torch.tensor([WIDTH - 2.0, HEIGHT - 2.0]))
    last = torch.maximum(torch.maximum(boxes[:, :2], boxes[:, 2:]), first + 1)
    return torch.cat([first, torch.minimum(last, torch.tensor([float(WIDTH), float(HEIGHT)]))], dim=1)


def _masks(boxes: Tensor, generator: torch.Generator) -> Tensor:
    """Return the ellipse in each box, with a few pixels missing."""
    rows, columns = torch.arange(HEIGHT)[:, None] + 0.5, torch.arange(WIDTH) + 0.5
    masks = torch.zeros(len(boxes), HEIGHT, WIDTH, dtype=torch.bool)
    for place, (left, top, right, bottom) in enumerate(boxes.tolist()):
        across = (columns - (left + right) / 2) / ((right - left) / 2)
        down = (rows - (top + bottom) / 2) / ((bottom - top) / 2)
        masks[place] = (across**2 + down**2 <= 1.2) & (torch.rand(HEIGHT, WIDTH, generator=generator) > 0.01)
    return masks
