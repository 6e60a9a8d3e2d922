"""Batches of images of different sizes."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from orchestrator.errors import DataError
from orchestrator.training.augmentations.batches import padded_batch, padded_class_maps


def test_images_are_padded_to_the_largest_sides_rounded_up() -> None:
    samples = [(torch.ones(3, 20, 40), {"image_id": 1}), (torch.ones(3, 33, 10), {"image_id": 2})]
    batch = padded_batch(samples)
    assert batch.images.shape == (2, 3, 64, 64)
    assert batch.padding.shape == (2, 64, 64)
    assert batch.sizes() == [(20, 40), (33, 10)]
    assert torch.equal(batch.images[:, 0] == 0, batch.padding)
    assert [tuple(each.shape) for each in batch.unpadded()] == [(3, 20, 40), (3, 33, 10)]
    assert [target["image_id"] for target in batch.targets] == [1, 2]
    assert padded_batch(samples, multiple=1).images.shape == (2, 3, 33, 40)
    moved = pytree.tree_map_only(torch.Tensor, lambda each: each.double(), batch)
    assert type(moved) is type(batch)


def test_class_maps_are_padded_with_the_ignored_class() -> None:
    targets = [{"class_map": torch.ones(2, 3, dtype=torch.uint8)}, {"class_map": torch.zeros(4, 1, dtype=torch.uint8)}]
    maps = padded_class_maps(targets, (4, 4))
    assert maps.dtype == torch.int64
    assert maps[0].tolist() == [[1, 1, 1, 255]] * 2 + [[255] * 4] * 2
    assert maps[1].tolist() == [[0, 255, 255, 255]] * 4


def test_images_of_two_types_are_rejected() -> None:
    with pytest.raises(DataError, match=r"got torch.float32, torch.uint8; all have one type"):
        padded_batch([(torch.ones(3, 2, 2), {}), (torch.ones(3, 2, 2, dtype=torch.uint8), {})])
