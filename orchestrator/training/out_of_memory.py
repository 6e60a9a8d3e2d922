"""Out-of-memory errors, reported with the settings that determine the use of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from orchestrator.config.sections.training import TrainingConfig
from orchestrator.errors import TrialFailedError

_ALLOCATOR = ("can't allocate memory", "not enough memory")  # torch on CPUs raises a plain RuntimeError


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is a failed allocation, on an accelerator or in main memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _ALLOCATOR)


@contextmanager
def translate_out_of_memory(training: TrainingConfig, world_size: int) -> Iterator[None]:
    """Raise a failed allocation inside the context as an error that names the batch size.

    Args:
        training: Training settings of the trial.
        world_size: Number of workers of the trial.

    Raises:
        TrialFailedError: An allocation failed.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        share = -(-training.global_batch_size // world_size)
        parts = training.accumulation_steps
        at_once = f", {-(-share // parts)} at a time in {parts} parts" if parts > 1 else ""
        raise TrialFailedError(
            f"out of memory with global_batch_size {training.global_batch_size}: {share} images on each of "
            f"{world_size} workers{at_once}. Use a smaller training.global_batch_size, more "
            "training.accumulation_steps, or a smaller network"
        ) from error
