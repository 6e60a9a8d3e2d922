"""Mixing once for a batch, its probability, and erasing after it."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from orchestrator.training.images.batch_augment import BatchAugmentation, Mixing
from orchestrator.training.images.device_images import DeviceSplit
from orchestrator.training.images.draws import SampleDraws
from orchestrator.training.images.training_batches import ResidentBatches
from orchestrator.training.workers import Workers

CPU = torch.device("cpu")
COUNT, CLASSES = 24, 24
ORDER = [np.arange(0, 24, 2), np.arange(1, 24, 2)]
BOTH = BatchAugmentation(mixup_alpha=0.8, cutmix_alpha=1.0, mixup_mode="batch")


def draws(count: int = 40) -> SampleDraws:
    return SampleDraws(3, 2, np.arange(count))


def batches(augmentation: BatchAugmentation, workers: Workers | None = None) -> ResidentBatches:
    pixels = torch.randint(0, 256, (COUNT, 3, 10, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    split = DeviceSplit(pixels, torch.arange(COUNT), torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))
    return ResidentBatches(split, augmentation, workers or Workers(), num_classes=CLASSES, seed=1)


@pytest.mark.parametrize("epoch", range(1, 7))  # some steps blend, some cut
def test_a_batch_is_mixed_with_one_share_and_one_box(epoch: int) -> None:
    plain = batches(BatchAugmentation())
    for (images, targets), index in zip(batches(BOTH).epoch(epoch, ORDER), ORDER, strict=True):
        pixels, labels = plain._read(epoch, index)
        share = targets[0, labels[0]]
        torch.testing.assert_close(targets[torch.arange(12), labels], share.expand(12))
        torch.testing.assert_close(targets[torch.arange(12), labels.flip(0)], (1 - share).expand(12))
        expected = naive_mix(pixels, BOTH.mixing((10, 12), SampleDraws(1, epoch, index[:1]), CPU))
        torch.testing.assert_close(images, expected)


def naive_mix(images: Tensor, mixing: Mixing) -> Tensor:
    """Mix a batch with itself in reverse order, image by image, with the same share or box."""
    share, (top, bottom, left, right) = float(mixing.share), mixing.boxes[0].tolist()
    mixed = []
    for image, partner in zip(images, images.flip(0), strict=True):
        if bottom > top:
            result = image.clone()
            result[:, top:bottom, left:right] = partner[:, top:bottom, left:right]
        else:
            result = share * image + (1 - share) * partner
        mixed.append(result)
    return torch.stack(mixed)


def test_all_ranks_mix_a_step_alike() -> None:
    alone = list(batches(BOTH).epoch(3, ORDER))
    ranks = [list(batches(BOTH, Workers(rank, 3)).epoch(3, ORDER)) for rank in range(3)]
    for step, (images, targets) in enumerate(alone):
        assert torch.equal(torch.cat([rank[step][0] for rank in ranks]), images)
        assert torch.equal(torch.cat([rank[step][1] for rank in ranks]), targets)


def test_shares_of_batches_follow_the_distributions_of_the_settings() -> None:
    augmentation = BatchAugmentation(mixup_alpha=0.8, cutmix_alpha=1.0, mix_switch=0.3, mix_prob=0.6)
    mixing = augmentation.mixing((32, 32), draws(8000), CPU)
    boxes = mixing.boxes
    cut = ((boxes[:, 1] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 2])).numpy()
    blended = (mixing.share < 1).numpy() & ~cut
    assert cut.mean() == pytest.approx(0.6 * 0.3, abs=0.02)  # less the boxes without a pixel
    assert blended.mean() == pytest.approx(0.6 * 0.7, abs=0.02)
    shares = mixing.share.numpy()
    assert stats.kstest(shares[blended], stats.beta(0.8, 0.8).cdf).pvalue > 1e-3
    assert (shares[~cut & ~blended] == 1).all()


def test_an_image_that_is_not_mixed_stays() -> None:
    augmentation = BatchAugmentation(cutmix_alpha=1.0, mix_prob=0.5)
    images, partners = torch.randn(2, 40, 3, 12, 16)
    mixing = augmentation.mixing((12, 16), draws(), CPU)
    unmixed = draws().uniform("mix")[:, 0] >= 0.5
    assert 10 < unmixed.sum() < 30
    assert torch.equal(augmentation.mix(images, partners, mixing)[unmixed], images[unmixed])
    always = BatchAugmentation(cutmix_alpha=1.0).mixing((12, 16), draws(), CPU)
    assert torch.equal(always.boxes[~unmixed], mixing.boxes[~unmixed])


def test_erasing_after_mixing_leaves_the_noise_whole() -> None:
    blend = BatchAugmentation(mixup_alpha=0.8)
    after = BatchAugmentation(mixup_alpha=0.8, erasing=0.5, erase_after_mixing=True)
    before = BatchAugmentation(mixup_alpha=0.8, erasing=0.5)
    for step, index in enumerate(ORDER):
        mixed, found, earlier = (list(batches(one).epoch(1, ORDER))[step][0] for one in (blend, after, before))
        own = SampleDraws(1, 1, index)
        assert torch.equal(found, BatchAugmentation(erasing=0.5).hide_(mixed.clone(), own))
        erased = (found != mixed).any(1)
        assert 0 < erased.any(2).any(1).sum() < 12
        assert found.movedim(1, 3)[erased].abs().max() < 6  # noise alone; pixels are in 0..255
        assert earlier.movedim(1, 3)[erased].abs().max() > 20  # blended with the partner's pixels
    assert torch.equal(
        BatchAugmentation(erasing=0.5, erase_after_mixing=True).hide_(torch.zeros(40, 3, 8, 8), draws()),
        BatchAugmentation(erasing=0.5).hide_(torch.zeros(40, 3, 8, 8), draws()),
    )  # without mixing there is one order


@pytest.mark.parametrize(("padding", "side"), [(0, 4), (2, 4), (2, 13)])
def test_crops_of_another_size_are_windows_at_every_place_alike(padding: int, side: int) -> None:
    count = 4000
    image = torch.arange(1, 111).view(1, 1, 10, 11)[:, :, :, :10].to(torch.uint8)  # no pixel is black, none repeats
    augmentation = BatchAugmentation(crop_padding=padding, crop_px=side)
    taken = augmentation.take(augmentation.resident(image), torch.zeros(count, dtype=torch.int64), draws(count))
    assert taken.shape == (count, 1, side, side)
    padded, places = torch.nn.functional.pad(image[0, 0], (padding,) * 4), 10 + 2 * padding - side + 1
    windows = {
        padded[top : top + side, left : left + side].numpy().tobytes(): (top, left)
        for top in range(places)
        for left in range(places)
    }
    found = np.array([windows[crop.numpy().tobytes()] for crop in taken[:, 0]])
    for axis in found.T:
        assert stats.chisquare(np.bincount(axis, minlength=places)).pvalue > 1e-3
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.06
