"""Timing of several programs in turns, and the peak memory of one in a process of its own."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

__all__ = ["Clock", "Ratio", "Timing", "peak_bytes", "rounds_within", "take_turns"]

Clock = Callable[[], float]
"""Clock in seconds: `time.perf_counter`, or `time.process_time` on a machine with other load."""

ROUND_S = 0.15  # least time of a program in a round, unless one call takes longer


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds of a call in each round."""

    rounds_ms: Sequence[float]

    @property
    def median_ms(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.rounds_ms)


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Ratio of the times of two programs: median and quartiles over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, slow: Timing, fast: Timing) -> Ratio:
        """Divide round by round, so that a temporary load on the machine slows both."""
        ratios = [a / b for a, b in zip(slow.rounds_ms, fast.rounds_ms, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return cls(statistics.median(ratios), low, high)


def take_turns(
    programs: Mapping[str, Callable[[], None]], *, rounds: int, device: torch.device, clock: Clock = time.perf_counter
) -> dict[str, Timing]:
    """Time every program in every round, in rotating order, after a warm-up."""
    calls = {name: _calls_per_turn(program, device, clock) for name, program in programs.items()}
    times: dict[str, list[float]] = {name: [] for name in programs}
    names = list(programs)
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(_seconds(programs[name], calls[name], device, clock) / calls[name] * 1e3)
    return {name: Timing(values) for name, values in times.items()}


def rounds_within(limit_s: float, programs: Mapping[str, Callable[[], None]], rounds: int, device: torch.device) -> int:
    """Return a number of rounds that takes about that long, at least one and at most the given one."""
    round_s = sum(max(ROUND_S, _seconds(program, 1, device)) for program in programs.values())
    return max(1, min(rounds, int(limit_s / max(round_s, ROUND_S))))


def _calls_per_turn(program: Callable[[], None], device: torch.device, clock: Clock) -> int:
    _seconds(program, 2, device, clock)
    return max(1, round(ROUND_S / _seconds(program, 1, device, clock)))


def _seconds(program: Callable[[], None], calls: int, device: torch.device, clock: Clock = time.perf_counter) -> float:
    _wait(device)
    started = clock()
    for _ in range(calls):
        program()
    _wait(device)
    return clock() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(program: Callable[[], None], device: torch.device) -> int:
    """Return the most memory that two calls hold above the level before them.

    On a CPU that is the memory of this process, which should have done little else: a peak before counts too.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _seconds(program, 2, device)
        return torch.cuda.max_memory_allocated(device) - before
    before = _resident_bytes("VmRSS")
    _seconds(program, 2, device)
    return _resident_bytes("VmHWM") - before


def _resident_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith(field + ":"))
    return int(kilobytes) * 1024
