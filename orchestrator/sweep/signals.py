"""Ctrl-C, SIGTERM and SIGHUP, counted for a sweep to poll."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class SignalWatch:
    """Counter of requests to stop; a context manager that handles SIGINT, SIGTERM and SIGHUP.

    The first Ctrl-C requests a stop after the epochs now running or, where they are long, at a checkpoint within them.
    The second one requests an immediate stop, as does a SIGTERM, which a SIGKILL may follow within seconds, and the
    SIGHUP of a terminal that closes; a SIGHUP that is ignored, as under `nohup`, stays so. Off the main thread the
    signal handlers stay as they are.
    """

    def __init__(self) -> None:
        self._requests = 0
        self._before: dict[int, object] = {}

    @property
    def stop_requested(self) -> bool:
        """True if the sweep must stop."""
        return self._requests > 0

    @property
    def urgent(self) -> bool:
        """True if the sweep must stop immediately."""
        return self._requests > 1

    def request_stop(self) -> None:
        """Request a stop after the epochs now running, as the first Ctrl-C does."""
        self._requests += 1

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():
            handled = [signal.SIGINT, signal.SIGTERM]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                handled.append(signal.SIGHUP)
            self._before = {number: signal.signal(number, self._count) for number in handled}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as it was handed out

    def _count(self, number: int, _frame: FrameType | None) -> None:
        self._requests += 1 if number == signal.SIGINT else 2
