"""Ctrl-C and SIGTERM, turned into something a sweep can look at."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interruption:
    """Counts the wishes to stop; a context manager that listens for them.

    The first Ctrl-C asks to stop after the epochs now running, the second to stop at once, as does a SIGTERM, which a
    SIGKILL may follow within seconds. Off the main thread signals are left to their owner.
    """

    def __init__(self) -> None:
        self._wishes = 0
        self._before: dict[int, object] = {}

    @property
    def asked(self) -> bool:
        """Whether the sweep is to stop."""
        return self._wishes > 0

    @property
    def urgent(self) -> bool:
        """Whether it is to stop at once."""
        return self._wishes > 1

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as it was handed out

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self._wishes += 2 if number == signal.SIGTERM else 1
