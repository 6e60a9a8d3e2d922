"""Timing of several programs in turns, so that other load on the machine affects all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

__all__ = ["times_in_turns_s"]

_ROUNDS = 11
_MOST_S = 10.0
_FEWEST_ROUNDS = 3


def times_in_turns_s(
    programs: Mapping[str, Callable[[], object]],
    *,
    rounds: int = _ROUNDS,
    most_s: float = _MOST_S,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each program in every round, after an untimed call; blocks.

    Each round begins with another program.

    Args:
        programs: Programs by name; one that starts work elsewhere also waits for it.
        rounds: Most rounds.
        most_s: Seconds after which no further round begins, once there are three.
        clock: Function that returns the time in seconds.
    """
    for program in programs.values():
        program()
    times: dict[str, list[float]] = {name: [] for name in programs}
    names, started = list(programs), clock()
    for done in range(rounds):
        if done >= _FEWEST_ROUNDS and clock() - started > most_s:
            break
        first = done % len(names)
        for name in names[first:] + names[:first]:
            begun = clock()
            programs[name]()
            times[name].append(clock() - begun)
    return times
