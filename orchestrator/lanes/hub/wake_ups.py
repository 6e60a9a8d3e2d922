"""Waiting for a change of something in particular, so that a change wakes only those whom it concerns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable


class WakeUps:
    """Who waits for a change of what; used within one event loop.

    A condition is looked at by the one who waits for it, in the same turn in which it then goes on: nobody comes
    between.
    """

    def __init__(self) -> None:
        self._asleep: dict[Hashable, dict[asyncio.Future[None], None]] = {}

    async def until(self, condition: Callable[[], bool], *subjects: Hashable, timeout_s: float | None = None) -> None:
        """Waits for a condition; on time-out returns as well, and the caller looks again.

        Args:
            condition: Looked at first, and whenever somebody is told of a change of one of the subjects.
            subjects: Without a change of any of them the condition stays as it is.
            timeout_s: None waits for ever.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self._sleep(subjects)
        except TimeoutError:
            return

    def wake(self, subjects: Iterable[Hashable]) -> None:
        """Wakes all who wait for any of the subjects."""
        for subject in subjects:
            for sleeper in self._asleep.get(subject, ()):
                _wake(sleeper)

    def wake_first(self, subject: Hashable) -> None:
        """Wakes the one who waits longest and is not woken yet."""
        for sleeper in self._asleep.get(subject, ()):
            if _wake(sleeper):
                return

    def wake_all(self) -> None:
        """Wakes everybody."""
        self.wake(self._asleep)

    async def _sleep(self, subjects: tuple[Hashable, ...]) -> None:
        sleeper = asyncio.get_running_loop().create_future()
        for subject in subjects:
            self._asleep.setdefault(subject, {})[sleeper] = None
        try:
            await sleeper
        finally:
            for subject in subjects:
                others = self._asleep[subject]
                del others[sleeper]
                if not others:
                    del self._asleep[subject]


def _wake(sleeper: asyncio.Future[None]) -> bool:
    """Whether it was asleep."""
    if sleeper.done():
        return False
    sleeper.set_result(None)
    return True
