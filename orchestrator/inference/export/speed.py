"""Comparison of programs by time: they run in turns, so that other load on the machine affects all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

__all__ = ["medians_ms"]

_ROUNDS = 11
_MOST_S = 10.0
_FEWEST_ROUNDS = 3


def medians_ms(programs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median time of each program in milliseconds on one torch thread, after an untimed call; blocks.

    Args:
        programs: Programs by name.
    """
    with _one_thread():
        return {name: 1000 * statistics.median(taken) for name, taken in _times_s(programs).items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _times_s(programs: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    for program in programs.values():
        program()
    times: dict[str, list[float]] = {name: [] for name in programs}
    started = time.perf_counter()
    for done in range(_ROUNDS):
        if done >= _FEWEST_ROUNDS and time.perf_counter() - started > _MOST_S:
            break
        for name, program in programs.items():
            begun = time.perf_counter()
            program()
            times[name].append(time.perf_counter() - begun)
    return times
