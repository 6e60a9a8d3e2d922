"""Two synthetic images of different sizes with boxes, masks and class maps, and small settings of detectors."""

from typing import Any

import torch
from torch import Tensor

from models.backbones import BackboneSettings

TINY = BackboneSettings(name="test_resnet")
SMALL: dict[str, Any] = {
    "fpn_channels": 16,
    "head_channels": 32,
    "mask_channels": 16,
    "min_size": None,
    "anchor_scale": 4,
    "proposals": (40, 20),
    "samples": 32,
    "semantic_classes": 4,
}


def scenes(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Return two images, each with two bright rectangles of classes 1 and 3 on a dark ground, and their targets."""
    images, targets = [], []
    for height, width in ((64, 96), (80, 64)):
        boxes = torch.tensor([[6.0, 8.0, 30.0, 40.0], [34.0, 20.0, 60.0, 52.0]], dtype=dtype)
        image = torch.full((3, height, width), 0.1, dtype=dtype)
        masks = torch.zeros(2, height, width, dtype=torch.uint8)
        class_map = torch.zeros(height, width, dtype=torch.uint8)
        for index, (left, top, right, bottom) in enumerate(boxes.int().tolist()):
            image[index, top:bottom, left:right] = 0.9
            masks[index, top:bottom, left:right] = 1
            class_map[top:bottom, left:right] = (1, 3)[index]
        images.append(image)
        targets.append({"boxes": boxes, "labels": torch.tensor([1, 3]), "masks": masks, "class_map": class_map})
    return images, targets
