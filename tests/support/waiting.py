"""Waiting for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

_LONGEST_S = 300.0  # a machine under load is no fault; a condition that holds ends the wait at once
_POLL_S = 0.02


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds.

    Args:
        condition: Function that returns whether it does.
    """
    deadline = time.monotonic() + _LONGEST_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(_POLL_S)
