"""Time spent on the parts of an epoch's steps, measured without making an accelerator wait."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StepClock:
    """Sums of the time of named parts of a step.

    On a GPU, work is queued and runs later: there, CUDA events are queued with it and read once, at the end.

    Args:
        device: Device on which the parts run.
    """

    def __init__(self, device: torch.device) -> None:
        self._queued = device.type == "cuda"
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time of the context to a part."""
        if not self._queued:
            started = time.perf_counter()
            yield
            self._seconds[part] += time.perf_counter() - started
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        yield
        end.record()
        self._events.append((part, start, end))

    def seconds(self) -> dict[str, float]:
        """Return the seconds per part since the last call; waits for the device."""
        if self._events:
            torch.cuda.synchronize()
        for part, start, end in self._events:
            self._seconds[part] += start.elapsed_time(end) / 1000
        seconds = dict(self._seconds)
        self._seconds.clear()
        self._events.clear()
        return seconds
