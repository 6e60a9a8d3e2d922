"""Predictions at the original size: the inverse of resize and padding."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from orchestrator.training.augmentations import original_size
from orchestrator.training.augmentations.original_size import boxes_to_original, prediction_to_original, resized_rows
from orchestrator.training.augmentations.samples import typed
from orchestrator.training.augmentations.transforms import DetectionTransforms
from tests.orchestrator.training.augmentations.test_transforms import scene


def test_boxes_by_hand() -> None:
    """Map from 50 x 200 px to 100 x 100 px: columns halved, rows doubled, cut at the border."""
    boxes = torch.tensor([[20.0, 10.0, 60.0, 30.0], [-4.0, 0.0, 220.0, 55.0]])
    assert boxes_to_original(boxes, (50, 200), (100, 100)).tolist() == [[10, 20, 30, 60], [0, 0, 100, 100]]


@pytest.mark.parametrize(
    "transforms",
    [DetectionTransforms(short_px=80, long_px=120, multiple=32), DetectionTransforms(square_px=96)],
    ids=["keep ratio", "square"],
)
def test_what_an_evaluation_transform_does_is_undone(transforms: DetectionTransforms) -> None:
    image, target = scene(2)
    transform = transforms.for_evaluation()
    resized, with_sizes = transform(image, target)
    # The same resize and padding as that of the image, applied to the target.
    _, moved = transform._after(*transform._resize(*typed(image, target)))
    assert moved["masks"].shape[1:] == resized.shape[1:]
    prediction = {key: moved[key].as_subclass(torch.Tensor) for key in ("boxes", "masks", "labels")}
    result = prediction_to_original(prediction, with_sizes)
    assert result["boxes"].tolist()[0] == pytest.approx(target["boxes"].tolist()[0], abs=1e-4)
    assert torch.equal(result["masks"], target["masks"].bool())
    assert result["labels"] is prediction["labels"]
    soft = {**prediction, "masks": prediction["masks"][:, None].float() * 0.8}
    assert torch.equal(prediction_to_original(soft, with_sizes)["masks"], target["masks"].bool())


@pytest.mark.parametrize("size", [(17, 23), (5, 6), (3, 40), (1, 1)])
def test_resized_rows_equal_interpolation(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(original_size, "_VALUES_AT_ONCE", 4 * size[1] * 2)  # two rows
    maps = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0))
    parts = list(resized_rows(maps, size))
    assert all(part.shape[1] <= 2 for part in parts)
    expected = interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
    assert torch.allclose(torch.cat(parts, dim=1), expected, atol=1e-5)
