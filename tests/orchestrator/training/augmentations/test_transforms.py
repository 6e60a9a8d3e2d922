"""Whole transforms: sizes, alignment of image and target, and draws that depend on the sample alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from orchestrator.errors import DataError
from orchestrator.training.augmentations.colours import PhotometricDistortion
from orchestrator.training.augmentations.transforms import DetectionTransforms, SegmentationTransforms
from orchestrator.training.images.image_loader import SampleKey

SCENES = SegmentationTransforms(short_px=32, long_px=128, crop_px=24)
OBJECTS = DetectionTransforms(short_px=24, long_px=40, photometric=True)


def scene(place: int) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return an image whose red channel is 255 in the object, with the object's box, mask and class map."""
    generator = torch.Generator().manual_seed(place)
    height, width = torch.randint(20, 50, (2,), generator=generator).tolist()
    mask = torch.zeros(1, height, width, dtype=torch.uint8)
    mask[:, 5:15, 4:16] = 1
    image = torch.cat([mask * 255, torch.zeros(2, height, width, dtype=torch.uint8)])
    box = torch.tensor([[4.0, 5.0, 16.0, 15.0]])
    target = {"image_id": place, "boxes": box, "labels": torch.tensor([1]), "masks": mask, "class_map": mask[0].long()}
    return image, target


class Scenes(Dataset[tuple[torch.Tensor, dict[str, Any]]]):
    """Augmented scenes by key."""

    def __getitem__(self, key: SampleKey) -> tuple[torch.Tensor, dict[str, Any]]:
        return augmented(key)


def augmented(key: SampleKey) -> tuple[torch.Tensor, dict[str, Any]]:
    return SCENES.for_training()(*scene(key.place), key)


def drawn(keys: Sequence[SampleKey], processes: int = 0) -> list[tuple[torch.Tensor, dict[str, Any]]]:
    loader = DataLoader(Scenes(), sampler=keys, batch_size=None, num_workers=processes)
    return list(loader)


def equal(left: tuple[torch.Tensor, dict[str, Any]], right: tuple[torch.Tensor, dict[str, Any]]) -> bool:
    same = [torch.equal(left[1][key], right[1][key]) for key in ("boxes", "labels", "masks", "class_map")]
    return torch.equal(left[0], right[0]) and all(same)


def test_samples_depend_on_seed_epoch_and_image_alone() -> None:
    """Compare one rank with two, another order, a resume in the middle, and decoding processes."""
    keys = [SampleKey(place, seed=3, epoch=2) for place in range(6)]
    alone = drawn(keys)
    torch.manual_seed(99)
    halves = [drawn(keys[1::2]), drawn(keys[::2])]
    assert all(equal(alone[place], halves[1 - place % 2][place // 2]) for place in range(6))
    assert all(equal(*pair) for pair in zip(alone[4:], drawn(keys[4:]), strict=True))
    assert all(equal(*pair) for pair in zip(alone, drawn(keys, processes=2), strict=True))
    for other in (SampleKey(0, 3, 1), SampleKey(0, 4, 2), SampleKey(0, 3, 2, 1)):
        assert not equal(augmented(other), alone[0])


def test_the_random_state_of_the_process_is_kept() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    augmented(SampleKey(1, 2, 3))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("transforms", [SCENES, OBJECTS], ids=["segmentation", "detection"])
def test_image_and_target_stay_aligned(transforms: SegmentationTransforms | DetectionTransforms) -> None:
    """Find the object in the pixels, the mask and the class map at the same places, and the box around it."""
    transform = transforms.for_training()
    seen = 0
    for place in range(12):
        image, target = transform(*scene(place), SampleKey(place, 1, 1))
        kept = len(target["boxes"])
        assert {len(target[key]) for key in ("labels", "masks")} == {kept}
        seen += kept
        if kept:
            mask = target["masks"][0].bool()
            contrast = image.amax(0)
            assert contrast[mask].mean() > contrast[~mask].mean()
            assert torch.equal(mask, target["class_map"] == 1)
            rows, columns = mask.nonzero().unbind(1)
            around = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (target["boxes"][0] - around).abs().max() <= 1.5  # masks are resized to the nearest pixel
    assert seen > 6


@pytest.mark.parametrize("transforms", [SCENES, OBJECTS], ids=["segmentation", "detection"])
def test_an_image_without_objects(transforms: SegmentationTransforms | DetectionTransforms) -> None:
    image, _ = scene(0)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "masks": torch.zeros(0, *image.shape[1:])}
    changed, target = transforms.for_training()(image, nothing, SampleKey(0))
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, *changed.shape[1:])


def test_segmentation_crops_have_one_size() -> None:
    for place in range(4):
        image, target = augmented(SampleKey(place, 0, 1))
        assert image.shape == (3, 24, 24)
        assert target["class_map"].shape == (24, 24)
        assert set(target["class_map"].unique().tolist()) <= {0, 1, 255}
    small = SegmentationTransforms(short_px=10, long_px=100, factors=(1, 1), crop_px=24).for_training()
    image, target = small(*scene(0), SampleKey(0))
    assert (target["class_map"] == 255).sum() > 0
    assert (image[:, target["class_map"] == 255] == 0).all()  # the mean colour


def test_colours_are_normalised() -> None:
    transforms = DetectionTransforms(short_px=20, long_px=200, hflip=0.0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1))
    pixels = torch.full((3, 20, 30), 255, dtype=torch.uint8)
    image, _ = transforms.for_training()(pixels, {}, SampleKey(0))
    assert image.dtype == torch.float32
    assert image[:, 0, 0].tolist() == pytest.approx([2.0, 1.0, 0.5])
    raw = DetectionTransforms(short_px=20, long_px=200, hflip=0.0, normalise=False)
    assert torch.equal(raw.for_training()(pixels, {}, SampleKey(0))[0], pixels)


def test_distorted_colours_keep_their_channels_where_asked() -> None:
    grey_red = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    grey_red[0] = 200
    largest = {True: set(), False: set()}
    torch.manual_seed(0)
    for permute, found in largest.items():
        distortion = PhotometricDistortion(permute_channels=permute)
        for _ in range(30):
            found.add(int(distortion(grey_red).float().mean((1, 2)).argmax()))
    assert largest == {True: {0, 1, 2}, False: {0}}


def test_evaluated_images_keep_their_target() -> None:
    image, target = scene(1)
    height, width = image.shape[1:]
    resized, result = DetectionTransforms(short_px=100, long_px=150, multiple=32).for_evaluation()(image, target)
    assert result["original_size"].tolist() == [height, width]
    factor = min(100 / min(height, width), 150 / max(height, width))
    assert result["input_size"].tolist() == [int(height * factor + 0.5), int(width * factor + 0.5)]
    assert all(side % 32 == 0 for side in resized.shape[1:])
    assert result["boxes"] is target["boxes"]
    square, result = DetectionTransforms(square_px=64).for_evaluation()(image, target)
    assert square.shape == (3, 64, 64)
    assert result["input_size"].tolist() == [64, 64]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (DetectionTransforms, {"short_px": 0}, "short_px: got 0; it is at least 1"),
        (DetectionTransforms, {"long_px": 700}, "long_px: got 700; it is at least short_px, 800"),
        (DetectionTransforms, {"square_px": -1}, "square_px: got -1"),
        (DetectionTransforms, {"hflip": 1.5}, "hflip: got 1.5; a probability"),
        (SegmentationTransforms, {"factors": (2.0, 0.5)}, r"factors: got \(2.0, 0.5\)"),
        (SegmentationTransforms, {"cat_max_ratio": 0}, "cat_max_ratio: got 0"),
        (SegmentationTransforms, {"crop_px": 0}, "crop_px: got 0"),
        (SegmentationTransforms, {"long_px": 511}, "long_px: got 511"),
    ],
)
def test_wrong_settings_are_named(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        kind(**settings)
