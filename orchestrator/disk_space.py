"""Sizes of files, and retry of writes on a full disk until a user or a service has made room.

All trials of a sweep write to the same storage. Without retries a disk that is full for a minute would end one trial
after another.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

logger = logging.getLogger(__name__)

PATIENCE_S = 300.0  # below the ten minutes after which the peers of a waiting rank time out
_PAUSE_S = 1.0
_FULL = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")


def disk_full_error(message: str) -> OSError:
    """Return the error that the system raises on a full disk."""
    return OSError(errno.ENOSPC, message)


def is_full(error: OSError) -> bool:
    """Return whether an error reports a full disk or an exhausted quota."""
    return error.errno in _FULL


def retry_while_full(
    write: Callable[[], T],
    place: Path,
    *,
    patience_s: float | None = None,
    gives_up: Callable[[], bool] = lambda: False,
) -> T:
    """Retry a write while the disk is full; block for a limited time.

    Args:
        write: Function that writes, and leaves nothing behind when it fails.
        place: Folder that it writes to, for the log.
        patience_s: Seconds to wait for room; None takes `PATIENCE_S`.
        gives_up: Returns whether to wait no longer; called once a second.

    Raises:
        OSError: Error of `write`: of another kind, or on a disk that stays full.
    """
    patience_s = PATIENCE_S if patience_s is None else patience_s
    deadline, is_logged = time.monotonic() + patience_s, False
    while True:
        try:
            return write()
        except OSError as error:
            if not is_full(error) or time.monotonic() >= deadline or gives_up():
                raise
            if not is_logged:
                logger.warning("No room is left in %s: waiting %g s for some to be made", place, patience_s)
                is_logged = True
            time.sleep(_PAUSE_S)


def as_size(size: int) -> str:
    """Format a size in bytes, such as `1.5 GiB`."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
