"""Running out of memory, said in the words of the settings that decide about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from orchestrator.config.sections.training import TrainingConfig
from orchestrator.errors import TrialFailedError

_ALLOCATOR = ("can't allocate memory", "not enough memory")  # of torch on CPUs, which raises a plain RuntimeError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on an accelerator or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _ALLOCATOR)


@contextmanager
def translate_out_of_memory(training: TrainingConfig, world_size: int) -> Iterator[None]:
    """Turns a failed allocation inside into an error that names the batch size tried.

    Raises:
        TrialFailedError: There was not enough memory.
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
