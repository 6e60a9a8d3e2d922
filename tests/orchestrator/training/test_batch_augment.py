"""Augmentation of whole batches against a reference per image; distribution of the random numbers."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from orchestrator.training.images.batch_augment import BatchAugmentation, Mixing, soft_targets
from orchestrator.training.images.draws import SampleDraws

CPU = torch.device("cpu")


def draws(samples: list[int] | None = None, *, seed: int = 3, epoch: int = 2) -> SampleDraws:
    return SampleDraws(seed, epoch, np.array(range(40) if samples is None else samples))


def pictures(count: int = 40, size: tuple[int, int] = (9, 11)) -> Tensor:
    """Create images without a black pixel."""
    return torch.randint(1, 256, (count, 3, *size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def cropped_and_mirrored(augmentation: BatchAugmentation, images: Tensor) -> Tensor:
    return augmentation.take(augmentation.resident(images), torch.arange(len(images)), draws())


def test_draws_depend_on_sample_seed_and_epoch() -> None:
    together, alone = draws([4, 7, 9]), draws([7])
    assert (together.uniform("crop", 2)[1] == alone.uniform("crop", 2)[0]).all()
    pixels = torch.arange(6)
    noise = [one.normal_at("noise", torch.full((6,), row), pixels, 3) for one, row in ((together, 1), (alone, 0))]
    assert torch.equal(*noise)
    others = (draws([8]), draws([7], seed=4), draws([7], epoch=3))
    assert all((other.uniform("crop", 2) != alone.uniform("crop", 2)).all() for other in others)
    assert (alone.uniform("flip", 2) != alone.uniform("crop", 2)).all()


def test_draws_are_uniform_and_normal() -> None:
    many = draws(list(range(20_000)))
    numbers = many.uniform("any", 3)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert all(stats.kstest(column, "uniform").pvalue > 1e-3 for column in numbers.T)
    assert np.abs(np.corrcoef(numbers.T) - np.eye(3)).max() < 0.03
    noise = many.normal_at("noise", torch.arange(20_000), torch.zeros(20_000, dtype=torch.int64), 3).numpy()
    assert all(stats.kstest(column, "norm").pvalue > 1e-3 for column in noise.T)
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.03
    assert np.abs(np.corrcoef(np.square(noise).T) - np.eye(3)).max() < 0.03


@pytest.mark.parametrize("padding", [1, 4])
def test_every_crop_is_a_window_of_the_padded_image(padding: int) -> None:
    images = pictures()
    cropped = cropped_and_mirrored(BatchAugmentation(crop_padding=padding), images)
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    places = []
    for image, result in zip(padded, cropped, strict=True):
        found = [
            (top, left)
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            if torch.equal(image[:, top : top + 9, left : left + 11], result)
        ]
        assert len(found) == 1
        places += found
    assert len(set(places)) > 5


def test_some_images_are_mirrored() -> None:
    images = pictures()
    results = cropped_and_mirrored(BatchAugmentation(hflip=0.5), images)
    mirrored = [torch.equal(result, image.flip(2)) for image, result in zip(images, results, strict=True)]
    assert 10 < sum(mirrored) < 30
    rest = [torch.equal(result, image) for image, result in zip(images, results, strict=True)]
    assert [not one for one in mirrored] == rest
    assert torch.equal(cropped_and_mirrored(BatchAugmentation(hflip=1.0), images), images.flip(3))


def test_cutout_zeroes_a_square() -> None:
    images = pictures().float()
    hidden = BatchAugmentation(cutout_px=4).hide_(images.clone(), draws())
    for image, result in zip(images, hidden, strict=True):
        rows, columns = (result == 0).all(0).nonzero().T
        height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert len(rows) == height * width
        assert 2 <= height <= 4
        assert 2 <= width <= 4
        assert torch.equal(result[result != 0], image[result != 0])


def test_erasing_fills_rectangles_with_noise() -> None:
    images = torch.full((40, 3, 20, 30), 7.0)
    erased = BatchAugmentation(erasing=0.5).hide_(images.clone(), draws())
    areas = []
    for result in erased:
        rows, columns = (result != 7).all(0).nonzero().T
        if len(rows):
            areas.append(len(rows) / 600)
            assert len(rows) == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
    assert 10 < len(areas) < 30
    assert min(areas) > 0.01
    assert max(areas) < 0.36
    noise = erased[erased != 7]
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 1) < 0.1
    assert torch.equal(BatchAugmentation(erasing=1e-9).hide_(images.clone(), draws()), images)


def test_the_share_of_a_blend_follows_the_beta_distribution() -> None:
    many = draws(list(range(5_000)))
    mixing = BatchAugmentation(mixup_alpha=0.8).mixing((8, 8), many, CPU)
    assert stats.kstest(mixing.share.numpy(), stats.beta(0.8, 0.8).cdf).pvalue > 1e-3
    assert not mixing.boxes.any()


def test_mixing_equals_a_reference_per_image() -> None:
    images, partners = torch.randn(2, 40, 3, 12, 16)
    augmentation = BatchAugmentation(mixup_alpha=0.8, cutmix_alpha=1.0)
    mixing = augmentation.mixing((12, 16), draws(), CPU)
    mixed = augmentation.mix(images, partners, mixing)
    cuts = 0
    for image, partner, result, share, box in zip(images, partners, mixed, mixing.share, mixing.boxes, strict=True):
        top, bottom, left, right = box.tolist()
        if bottom > top:
            cuts += 1
            expected = image.clone()
            expected[:, top:bottom, left:right] = partner[:, top:bottom, left:right]
            kept = 1 - (bottom - top) * (right - left) / (12 * 16)
            torch.testing.assert_close(float(share), kept, rtol=1e-6, atol=1e-6)
        else:
            expected = share * image + (1 - share) * partner
        torch.testing.assert_close(result, expected)
    assert 10 < cuts < 30


def test_a_rectangle_without_area_changes_nothing() -> None:
    images, partners = torch.randn(2, 1, 3, 4, 4)
    mixing = Mixing(torch.tensor([1.0]), torch.tensor([[2, 3, 1, 1]]))
    torch.testing.assert_close(BatchAugmentation.mix(images, partners, mixing), images)


def test_targets_of_mixed_images() -> None:
    labels, partners, share = torch.tensor([0, 2]), torch.tensor([1, 2]), torch.tensor([0.75, 0.5])
    expected = torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(soft_targets(labels, partners, share, 3), expected)
