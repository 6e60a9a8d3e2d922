"""Sizes, crops and padding: values worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from orchestrator.training.augmentations.geometry import (
    ClassCrop,
    KeepRatioResize,
    PadRight,
    keep_ratio_size,
    padded_size,
)
from orchestrator.training.augmentations.samples import plain, typed
from tests.orchestrator.training.augmentations.test_samples import sample


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),  # the shorter side decides: 640 * 800 / 480 = 1066.7
        ((640, 480), (1067, 800)),
        ((300, 1200), (333, 1333)),  # the longer side decides: 300 * 1333 / 1200 = 333.25
        ((1000, 2000), (667, 1333)),  # 666.5 is rounded up
        ((800, 1333), (800, 1333)),
        ((1600, 1600), (800, 800)),
        ((1, 5000), (1, 1333)),  # never less than a pixel
    ],
)
def test_sizes_keep_the_ratio(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert keep_ratio_size(size, 800, 1333) == expected


def test_padded_sizes() -> None:
    assert padded_size((800, 1067), 32) == (800, 1088)
    assert padded_size((1, 33), 32) == (32, 64)


def test_a_resize_scales_boxes_and_masks() -> None:
    """Double an image of 6 x 8 px, whose ratio 16 x 12 keeps."""
    image, result = plain(*KeepRatioResize(12, 100)(*typed(*sample())))
    assert image.shape == (3, 12, 16)
    assert result["boxes"].tolist() == [[0, 0, 8, 4], [8, 6, 12, 12], [14, 2, 16, 10]]
    _, target = sample()
    for key in ("masks", "class_map"):  # the nearest pixel of a doubled map is each pixel twice
        doubled = target[key].repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
        assert torch.equal(result[key], doubled)


def test_a_square_does_not_keep_the_ratio() -> None:
    image, result = plain(*v2.Resize([12, 12])(*typed(*sample())))
    assert image.shape == (3, 12, 12)
    assert result["boxes"][1].tolist() == [6, 6, 9, 12]


def test_a_mirror_image() -> None:
    image, result = plain(*v2.RandomHorizontalFlip(1.0)(*typed(*sample())))
    original, target = sample()
    assert torch.equal(image, original.flip(2))
    assert result["boxes"].tolist() == [[4, 0, 8, 2], [2, 3, 4, 6], [0, 1, 1, 5]]
    assert torch.equal(result["masks"], target["masks"].flip(2))
    assert torch.equal(result["class_map"], target["class_map"].flip(1))


def test_multi_scale_draws_both_bounds() -> None:
    resize = KeepRatioResize(512, 2048, (0.5, 2.0))
    image = tv_tensors.Image(torch.zeros(3, 64, 80, dtype=torch.uint8))
    torch.manual_seed(0)
    factors = [0.5 + 1.5 * float(torch.rand(())) for _ in range(5)]
    torch.manual_seed(0)
    shorter = [resize(image).shape[1] for _ in range(5)]
    assert shorter == [int(512 * factor) for factor in factors]
    assert len(set(shorter)) == 5


def test_a_crop_is_that_part_of_image_and_target() -> None:
    image, target = sample()
    crop = ClassCrop(4)
    torch.manual_seed(1)
    drawn = crop.make_params([tv_tensors.Image(image)])
    torch.manual_seed(1)
    cut, result = plain(*crop(*typed(image, target)))
    rows, columns = slice(drawn["top"], drawn["top"] + 4), slice(drawn["left"], drawn["left"] + 4)
    assert torch.equal(cut, image[:, rows, columns])
    assert torch.equal(result["class_map"], target["class_map"][rows, columns])
    assert torch.equal(result["masks"], target["masks"][:, rows, columns])
    whole = crop(tv_tensors.Image(image[:, :3]))  # shorter than the crop
    assert whole.shape == (3, 3, 4)


def count_draws(monkeypatch: pytest.MonkeyPatch, crop: ClassCrop, class_map: torch.Tensor) -> int:
    """Return how often a crop is drawn for a class map."""
    draws = []
    draw = crop._draw

    def counted(size: tuple[int, int]) -> dict[str, int]:
        draws.append(size)
        return draw(size)

    monkeypatch.setattr(crop, "_draw", counted)
    crop(*typed(torch.zeros(3, *class_map.shape), {"class_map": class_map}))
    return len(draws)


@pytest.mark.parametrize(
    ("values", "ratio", "draws"),
    [
        ([0, 0, 0, 1], 0.8, 1),  # three quarters
        ([0, 0, 0, 1], 0.75, 11),  # not below the limit: ten further crops
        ([0, 0, 255, 1], 0.75, 1),  # ignored pixels do not count: two thirds
        ([0, 0, 255, 255], 0.75, 11),  # a single class
        ([255, 255, 255, 255], 0.75, 11),  # none
        ([0, 0, 0, 0], 1.0, 1),  # no limit
    ],
)
def test_a_crop_that_one_class_fills_is_drawn_again(
    monkeypatch: pytest.MonkeyPatch, values: list[int], ratio: float, draws: int
) -> None:
    class_map = torch.tensor(values, dtype=torch.uint8).reshape(2, 2)
    assert count_draws(monkeypatch, ClassCrop(2, ratio), class_map) == draws


def test_mixed_crops_are_found() -> None:
    """Crop from a map whose right quarter has a second class: most of the crops hold both."""
    class_map = torch.zeros(40, 40, dtype=torch.int64)
    class_map[:, 30:] = 1
    shares = {}
    for ratio in (0.75, 1.0):
        torch.manual_seed(0)
        crops = [ClassCrop(20, ratio)(*typed(torch.zeros(3, 40, 40), {"class_map": class_map})) for _ in range(40)]
        shares[ratio] = sum(target["class_map"].float().mean() > 0.25 for _, target in crops) / 40
    assert shares[0.75] > 0.9 > 0.5 > shares[1.0]


@pytest.mark.parametrize(("pad", "size"), [(PadRight(7), (7, 8)), (PadRight(multiple=5), (10, 10))])
def test_padding_is_at_the_right_and_at_the_bottom(pad: PadRight, size: tuple[int, int]) -> None:
    original, target = sample()
    image, result = plain(*pad(*typed(original, target)))
    assert image.shape == (3, *size)
    assert torch.equal(image[:, :6, :8], original)
    assert image[:, 6:].sum() == image[:, :, 8:].sum() == 0
    assert torch.equal(result["boxes"], target["boxes"])
    assert result["masks"].sum() == target["masks"].sum()
    assert torch.equal(result["class_map"][:6, :8], target["class_map"])
    assert (result["class_map"][6:] == 255).all()
    assert (result["class_map"][:, 8:] == 255).all()
