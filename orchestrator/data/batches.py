"""Which images form which batch: splits, orders and shares, as pure functions of seeds.

Nothing here depends on the number of workers except the last cut, so that W workers see together, step by step,
what one worker would see alone.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def split_validation(labels: npt.NDArray[np.int32], fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Cuts training images into training and validation, drawn per class.

    Args:
        labels: Labels of the training split, (N,).
        fraction: Share held out, in (0, 1).
        seed: Of the draw.

    Returns:
        Sorted positions of the training and of the validation images.
    """
    from sklearn.model_selection import train_test_split

    train, validation = train_test_split(np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=seed)
    return np.sort(train), np.sort(validation)


def epoch_batches(count: int, global_batch_size: int, *, seed: int, epoch: int) -> list[Indices]:
    """The order of one epoch, cut into batches of nearly equal size.

    Every image comes once. Sizes differ by at most one, so no step is left with a handful of images.

    Args:
        count: Training images.
        global_batch_size: Largest batch, summed over workers.
        seed: Of the trial.
        epoch: From 1.
    """
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return np.array_split(order, math.ceil(count / global_batch_size))


def worker_share(batch: Indices, rank: int, world_size: int) -> Indices:
    """The contiguous part of a batch that one worker takes; sizes differ by at most one."""
    return np.array_split(batch, world_size)[rank]
