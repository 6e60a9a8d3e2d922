"""Random states as functions of numbers, so that a trial resumes exactly without stored random states."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def mix(*numbers: int) -> int:
    """Combine several numbers into one seed, the same on every machine."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % 2**63
    return mixed


def seed_everything(*numbers: int, device: torch.device | None = None) -> None:
    """Seed Python, NumPy and torch from numbers such as seed, epoch, step and rank.

    Cheap enough for every step: a few microseconds, where `torch.manual_seed` takes a hundred.

    Args:
        numbers: Numbers that determine the states; their order matters.
        device: Accelerator to seed as well.
    """
    seed = mix(*numbers)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        torch.cuda.manual_seed(seed)


RandomStates = tuple[Any, Any, torch.Tensor, torch.Tensor | None]
"""States of Python's, NumPy's and torch's generators, and of the accelerator's."""


def random_states(device: torch.device) -> RandomStates:
    """Return the states of all generators of this process that a step may draw from.

    Args:
        device: Device of the training.
    """
    accelerator = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), accelerator


def restore_random_states(states: RandomStates, device: torch.device) -> None:
    """Restore what `random_states` returned.

    Args:
        states: Result of `random_states`.
        device: Device of the training.
    """
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    if states[3] is not None:
        torch.cuda.set_rng_state(states[3], device)


@contextlib.contextmanager
def kept_randomness() -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch after the block."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def seed_sample(*numbers: int) -> None:
    """Seed Python, NumPy and torch for one sample.

    Args:
        numbers: Numbers from 0 that determine the states, such as seed, epoch, image and copy; their order matters.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def sample_randomness(*numbers: int) -> Iterator[None]:
    """Seed Python, NumPy and torch for one sample, and restore the former random states afterwards.

    Takes a tenth of a millisecond, so that every image may have its own seed.

    Args:
        numbers: Numbers that determine the states, see `seed_sample`.
    """
    with kept_randomness():
        seed_sample(*numbers)
        yield
