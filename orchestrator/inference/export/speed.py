"""Comparison of programs by time, on one thread."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from orchestrator.inference.timing import times_in_turns_s

__all__ = ["medians_ms"]


def medians_ms(programs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median time of each program in milliseconds on one torch thread, after an untimed call; blocks.

    Args:
        programs: Programs by name.
    """
    with _one_thread():
        return {name: 1000 * statistics.median(taken) for name, taken in times_in_turns_s(programs).items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
