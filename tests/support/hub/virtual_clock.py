"""Event loop whose clock advances only when all calls wait: a test does not depend on how fast it runs."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Selector that advances a clock in place of waiting."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not ready:
            assert timeout is not None, "every call waits, and none for a time"
            self.now_s += max(0.0, timeout)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    """Event loop by the clock of its selector."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s


def run_in_virtual_time(main: Coroutine[Any, Any, None], timeout_s: float) -> None:
    """Run a coroutine, whose sleeps and timeouts take no time but end in their order.

    Args:
        main: Coroutine.
        timeout_s: Virtual seconds in which it must end.
    """
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(asyncio.wait_for(main, timeout_s))
