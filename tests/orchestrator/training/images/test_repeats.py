"""Repeated augmentation of small images and of files: several samples of an image within an epoch."""

import numpy as np
import pytest
import torch
from timm.data.distributed_sampler import RepeatAugSampler

from orchestrator.data import epoch_batches
from orchestrator.training.images.batch_augment import BatchAugmentation
from orchestrator.training.images.device_images import DeviceSplit
from orchestrator.training.images.training_batches import ResidentBatches
from orchestrator.training.workers import Workers

COUNT = 256


def labels_of(order: list[np.ndarray], repeats: int, workers: Workers) -> list[list[int]]:
    """Return the images that a rank reads, step by step; their labels are their positions."""
    split = DeviceSplit(
        torch.zeros(COUNT, 1, 2, 2, dtype=torch.uint8),
        torch.arange(COUNT),
        torch.zeros(1, 1, 1, 1),
        torch.ones(1, 1, 1, 1),
    )
    batches = ResidentBatches(split, BatchAugmentation(), workers, num_classes=COUNT, seed=1, repeats=repeats)
    return [labels.tolist() for _, labels in batches.epoch(1, order)]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_read_the_images_of_timms_sampler(world_size: int) -> None:
    order = list(np.arange(COUNT).reshape(-1, 64))
    for rank in range(world_size):
        ours = np.concatenate(labels_of(order, 3, Workers(rank, world_size))).tolist()
        theirs = RepeatAugSampler(range(COUNT), world_size, rank, shuffle=False, num_repeats=3)
        assert ours == list(theirs)


def test_an_epoch_keeps_its_length_and_draws_fewer_images_several_times() -> None:
    order = epoch_batches(COUNT, 30, seed=4, epoch=1)
    steps = labels_of(order, 3, Workers())
    assert list(map(len, steps)) == list(map(len, order))
    drawn, times = np.unique(np.concatenate(steps), return_counts=True)
    assert len(drawn) == -(-COUNT // 3)
    assert sorted(times) == [1, *[3] * (COUNT // 3)]


def test_copies_differ_and_are_the_same_in_every_run() -> None:
    pixels = torch.randint(0, 256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    split = DeviceSplit(pixels, torch.arange(12), torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))
    augmentation = BatchAugmentation(crop_padding=2, hue=0.2, lighting=0.1, mixup_alpha=1.0, erasing=0.3)

    def read(rank: int = 0, world_size: int = 1, first: int = 0) -> list[torch.Tensor]:
        workers = Workers(rank, world_size)
        batches = ResidentBatches(split, augmentation, workers, num_classes=12, seed=1, repeats=2)
        order = [np.arange(6), np.arange(6, 12)]
        return [images for images, _ in batches.epoch(1, order, first=first)]

    whole = read()
    assert len({image.numpy().tobytes() for step in whole for image in step}) == 12
    assert all(torch.equal(one, other) for one, other in zip(read(first=1), whole[1:], strict=True))
    for rank in range(2):  # copies of an image are read by different ranks
        for own, step in zip(read(rank, 2), whole, strict=True):
            assert torch.equal(own, step[rank::2])
