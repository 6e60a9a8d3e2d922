"""Waiting for changes by subject, so that a change wakes only the calls that depend on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable


class WakeUps:
    """Calls that wait for a change, by subject; used within one event loop.

    A condition is checked by the call that waits for it, in the same turn of the loop in which that call continues: no
    other call runs in between.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, dict[asyncio.Future[None], None]] = {}

    async def until(self, condition: Callable[[], bool], *subjects: Hashable, timeout_s: float | None = None) -> None:
        """Wait for a condition; return after the timeout as well, so that the caller checks again.

        Args:
            condition: Condition, checked at once and after each `wake` of one of the subjects.
            subjects: Subjects whose changes can change the condition.
            timeout_s: Timeout in seconds; None waits without one.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self._wait(subjects)
        except TimeoutError:
            return

    def wake(self, subjects: Iterable[Hashable]) -> None:
        """Wake all calls that wait for any of the subjects."""
        for subject in subjects:
            for waiter in self._waiting.get(subject, ()):
                _wake(waiter)

    def wake_first(self, subject: Hashable) -> None:
        """Wake the call that waits longest for a subject and is not woken yet."""
        for waiter in self._waiting.get(subject, ()):
            if _wake(waiter):
                return

    def wake_all(self) -> None:
        """Wake all calls."""
        self.wake(self._waiting)

    async def _wait(self, subjects: tuple[Hashable, ...]) -> None:
        waiter = asyncio.get_running_loop().create_future()
        for subject in subjects:
            self._waiting.setdefault(subject, {})[waiter] = None
        try:
            await waiter
        finally:
            for subject in subjects:
                others = self._waiting[subject]
                del others[waiter]
                if not others:
                    del self._waiting[subject]


def _wake(waiter: asyncio.Future[None]) -> bool:
    """Wake a waiter; return whether it was still waiting."""
    if waiter.done():
        return False
    waiter.set_result(None)
    return True
