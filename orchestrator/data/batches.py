"""Splits, epoch orders and worker shares, as pure functions of seeds.

Only `worker_share` depends on the number of workers, so that W workers read together, step by step, the images that
a single worker would read.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def split_validation(labels: npt.NDArray[np.int32], fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Split training images into training and validation images, drawn per class.

    Args:
        labels: Labels of the training split, (N,).
        fraction: Share of validation images, in (0, 1).
        seed: Seed of the draw.

    Returns:
        Sorted positions of the training and of the validation images, int64.

    Raises:
        ValueError: A class has a single image, or there are more classes than images in a part.

    The draw is that of scikit-learn's `train_test_split`, whose import would take a second in each worker.
    """
    validation_count = math.ceil(fraction * len(labels))
    train_count = len(labels) - validation_count
    classes, counts = np.unique(labels, return_counts=True)
    if not len(counts) or counts.min() < 2 or min(train_count, validation_count) < len(classes):
        from sklearn.model_selection import train_test_split

        train_test_split(labels, test_size=fraction, stratify=labels, random_state=seed)  # which names what is wrong
    random = np.random.RandomState(seed)
    train_shares = _shares(counts, train_count, random)
    validation_shares = _shares(counts - train_shares, validation_count, random)
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    train, validation = [], []
    for own, first, second in zip(by_class, train_shares, validation_shares, strict=True):
        drawn = own[random.permutation(len(own))]
        train.append(drawn[:first])
        validation.append(drawn[first : first + second])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(validation))


def _shares(counts: Indices, total: int, random: np.random.RandomState) -> Indices:
    """Return how many of `total` images fall to each class: in proportion to its count, and rounded to whole numbers.

    What rounding down leaves goes to the classes with the largest fractions; among equal ones it is drawn.
    """
    exact = counts / counts.sum() * total
    shares = np.floor(exact)
    fractions = exact - shares
    left = int(total - shares.sum())
    for fraction in np.unique(fractions)[::-1]:
        if left == 0:
            break
        tied = np.flatnonzero(fractions == fraction)
        raised = random.choice(tied, size=min(left, len(tied)), replace=False)
        shares[raised] += 1
        left -= len(raised)
    whole: Indices = shares.astype(np.int64)
    return whole


def draw_fraction(labels: npt.NDArray[np.int32], positions: Indices, fraction: float, seed: int) -> Indices:
    """Draw a share of some images per class; with one seed, a smaller share is part of a larger one.

    Args:
        labels: Labels of the whole split, (N,).
        positions: Positions of the images to draw from.
        fraction: Share of each class, in (0, 1]; rounded to a whole number of images, at least one.
        seed: Seed of the draw.

    Returns:
        Sorted positions, int64.
    """
    if fraction == 1:
        return positions
    kept = []
    for label in np.unique(labels[positions]):
        own = positions[labels[positions] == label]
        order = np.random.default_rng([seed, int(label)]).permutation(len(own))
        kept.append(own[order[: max(1, round(fraction * len(own)))]])
    return np.sort(np.concatenate(kept))


def epoch_batches(
    count: int, global_batch_size: int, *, seed: int, epoch: int, drop_last: bool = False
) -> list[Indices]:
    """Return the order of one epoch, cut into batches of nearly equal size.

    Every image comes once. Sizes differ by at most one, so no step is left with a handful of images.

    Args:
        count: Number of training images.
        global_batch_size: Largest number of images per batch, summed over workers.
        seed: Seed of the trial.
        epoch: Number of the epoch, from 1.
        drop_last: Cuts batches of exactly `global_batch_size` and leaves out the rest of the order; without effect on
            fewer images than that.
    """
    order = np.random.default_rng([seed, epoch]).permutation(count)
    if drop_last and count >= global_batch_size:
        steps = count // global_batch_size
        return np.split(order[: steps * global_batch_size], steps)
    return np.array_split(order, math.ceil(count / global_batch_size))


def worker_share(batch: Indices, rank: int, world_size: int) -> Indices:
    """Return the contiguous part of a batch for one worker; sizes differ by at most one.

    Args:
        batch: Positions of the images of a batch.
        rank: Rank of the worker.
        world_size: Number of workers.
    """
    return np.array_split(batch, world_size)[rank]
