"""Checks of samples and removal of empty boxes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from orchestrator.errors import DataError
from orchestrator.training.augmentations.samples import ClassMap, plain, typed, without_empty_boxes


def sample() -> tuple[torch.Tensor, dict[str, Any]]:
    """Return an image of 6 x 8 px with three objects: of 2 x 4 px, of 3 x 2 px, and of 4 x 1 px."""
    boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0], [4.0, 3.0, 6.0, 6.0], [7.0, 1.0, 8.0, 5.0]])
    masks = torch.zeros(3, 6, 8, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    target = {
        "boxes": boxes,
        "labels": torch.tensor([3, 1, 2]),
        "masks": masks,
        "iscrowd": torch.tensor([0, 1, 0], dtype=torch.uint8),
        "area": torch.tensor([8.0, 6.0, 4.0]),
        "image_id": 7,
        "class_map": torch.arange(48).reshape(6, 8),
    }
    return torch.arange(144, dtype=torch.uint8).reshape(3, 6, 8), target


def test_a_crop_cuts_boxes_and_removes_those_outside() -> None:
    """Crop columns 3 to 6: the first box keeps one column, the second is whole, the third is outside."""
    image, target = typed(*sample())
    cropped = {key: functional.crop(value, 0, 3, 6, 4) for key, value in target.items() if key in ("boxes", "masks")}
    _, result = plain(image, without_empty_boxes({**target, **cropped}, target))
    assert result["boxes"].tolist() == [[0.0, 0.0, 1.0, 2.0], [1.0, 3.0, 3.0, 6.0]]
    assert result["labels"].tolist() == [3, 1]
    assert result["iscrowd"].tolist() == [0, 1]
    assert result["area"].tolist() == [2.0, 6.0]
    assert result["masks"].sum((1, 2)).tolist() == [2, 6]
    assert result["image_id"] == 7
    without_masks = {key: value for key, value in {**target, **cropped}.items() if key != "masks"}
    assert without_empty_boxes(without_masks, target)["area"].tolist() == [2.0, 6.0]


def test_a_box_without_pixels_of_its_mask_is_removed() -> None:
    _, target = typed(*sample())
    masks = target["masks"].clone()
    masks[1] = 0
    result = without_empty_boxes({**target, "masks": masks}, target)
    assert result["labels"].tolist() == [3, 2]
    assert len(result["masks"]) == len(result["boxes"]) == len(result["area"]) == 2


def test_types_are_added_and_removed() -> None:
    image, target = sample()
    wrapped, changed = typed(image, target)
    kinds = {key: type(changed[key]) for key in ("boxes", "masks", "class_map", "labels")}
    assert kinds == {
        "boxes": tv_tensors.BoundingBoxes,
        "masks": tv_tensors.Mask,
        "class_map": ClassMap,
        "labels": torch.Tensor,
    }
    again, result = plain(wrapped, changed)
    assert {type(value) for value in (again, *result.values())} == {torch.Tensor, int}
    assert torch.equal(again, image)
    assert all(torch.equal(result[key], target[key]) for key in ("boxes", "masks", "class_map"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"boxes": torch.zeros(3, 5)},
            r"target.boxes: got the shape \(3, 5\); with an image of 6 x 8 px and 3 boxes it",
        ),
        ({"labels": torch.zeros(2)}, r"target.labels: got the shape \(2,\).* it is \(3,\)"),
        ({"masks": torch.zeros(3, 8, 6)}, r"target.masks: got the shape \(3, 8, 6\).* it is \(3, 6, 8\)"),
        ({"class_map": torch.zeros(6, 7)}, r"target.class_map: got the shape \(6, 7\)"),
        ({"boxes": None}, "has masks and no boxes"),
    ],
)
def test_faults_are_named(change: dict[str, Any], message: str) -> None:
    image, target = sample()
    target |= change
    if target["boxes"] is None:
        del target["boxes"]
    with pytest.raises(DataError, match=message):
        typed(image, target)
    with pytest.raises(DataError, match="an image is"):
        typed(image[0], {})
