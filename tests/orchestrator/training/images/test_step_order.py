"""Order of the images over the steps of a training: passes, epochs of a number of steps, and resumed epochs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from orchestrator.config import TrainingConfig
from orchestrator.data import Indices, epoch_batches
from orchestrator.training.images.batch_augment import BatchAugmentation
from orchestrator.training.images.device_images import DeviceSplit
from orchestrator.training.images.split import Batch
from orchestrator.training.images.step_order import StepOrder, read_steps
from orchestrator.training.images.training_batches import ResidentBatches
from orchestrator.training.workers import Workers

IMAGES, BATCH = 23, 5  # five batches of four or five images a pass, or four of five with `drop_last`


class Numbers:
    """Source whose batches are the pass and the positions of their images."""

    def epoch(self, number: int, batches: Sequence[Indices], *, first: int = 0) -> Iterator[Batch]:
        for batch in batches[first:]:
            yield number, batch.tolist()


def order(epoch_steps: int | None, *, drop_last: bool = False) -> StepOrder:
    training = TrainingConfig(global_batch_size=BATCH, epoch_steps=epoch_steps, drop_last=drop_last)
    return StepOrder(IMAGES, training, seed=3)


def read(of: StepOrder, epoch: int, first: int = 0) -> list[Batch]:
    return list(read_steps(Numbers(), of.epoch(epoch), first=first))


def stream(steps: int, *, drop_last: bool = False) -> list[Batch]:
    """Return the steps of pass after pass, written out one by one."""
    found: list[Batch] = []
    number = 0
    while len(found) < steps:
        number += 1
        passed = epoch_batches(IMAGES, BATCH, seed=3, epoch=number, drop_last=drop_last)
        found += [(number, batch.tolist()) for batch in passed]
    return found[:steps]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("epoch_steps", [1, 3, 4, 5, 7, 11])
def test_epochs_continue_the_passes(epoch_steps: int, drop_last: bool) -> None:
    of = order(epoch_steps, drop_last=drop_last)
    assert of.steps_per_epoch == epoch_steps
    found = [step for epoch in range(1, 6) for step in read(of, epoch)]
    assert found == stream(5 * epoch_steps, drop_last=drop_last)


def test_without_a_number_an_epoch_is_a_pass() -> None:
    of = order(None)
    assert of.steps_per_epoch == 5
    for epoch in (1, 2, 9):
        (part,) = of.epoch(epoch)
        assert (part.number, part.first) == (epoch, 0)
        wanted = epoch_batches(IMAGES, BATCH, seed=3, epoch=epoch)
        assert all(np.array_equal(one, other) for one, other in zip(part.steps, wanted, strict=True))
        assert read(of, epoch) == read(order(5), epoch)


@pytest.mark.parametrize("epoch_steps", [None, 3, 7, 13])
def test_a_resumed_epoch_skips_its_first_steps(epoch_steps: int | None) -> None:
    of = order(epoch_steps)
    for epoch in (1, 2, 4):
        whole = read(of, epoch)
        for first in range(len(whole) + 1):
            assert read(of, epoch, first) == whole[first:]


def test_copies_of_images_are_those_of_whole_passes() -> None:
    """Draw each image twice within a pass: the first part of a pass does not depend on where an epoch ends."""
    split = DeviceSplit(
        torch.arange(IMAGES * 4).view(IMAGES, 1, 2, 2).to(torch.uint8),
        torch.arange(IMAGES),
        torch.zeros(1, 1, 1, 1),
        torch.ones(1, 1, 1, 1),
    )
    settings = BatchAugmentation(erasing=0.5, mixup_alpha=1.0)
    batches = ResidentBatches(split, settings, Workers(), num_classes=IMAGES, seed=3, repeats=2)
    whole = [pair for epoch in (1, 2, 3) for pair in read_steps(batches, order(None).epoch(epoch), first=0)]
    parts = [pair for epoch in range(1, 6) for pair in read_steps(batches, order(3).epoch(epoch), first=0)]
    assert len(parts) == len(whole) == 15
    for (images, targets), (others, other_targets) in zip(parts, whole, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(targets, other_targets)
