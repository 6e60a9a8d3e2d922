"""A disk without room: what is to be written waits for a while, since people and services make room when they notice.

All trials of a sweep write to the same storage. Without patience a disk that is full for a minute would end one trial
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

PATIENCE_S = 300.0  # below the ten minutes after which the peers of a rank that waits give it up
_PAUSE_S = 1.0
_FULL = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")


def disk_full_error(message: str) -> OSError:
    """What the system itself would raise a moment later."""
    return OSError(errno.ENOSPC, message)


def is_full(error: OSError) -> bool:
    """Whether an error says that there is no room, or that the quota is used up."""
    return error.errno in _FULL


def retry_while_full(write: Callable[[], T], place: Path) -> T:
    """Repeats a write until there is room for it.

    Args:
        write: Leaves nothing behind when it fails.
        place: Where it writes, for the log.

    Raises:
        OSError: As of `write`, after `PATIENCE_S` without room.
    """
    over, told = time.monotonic() + PATIENCE_S, False
    while True:
        try:
            return write()
        except OSError as error:
            if not is_full(error) or time.monotonic() > over:
                raise
            if not told:
                logger.warning("No room is left in %s: waiting %g s for some to be made", place, PATIENCE_S)
                told = True
            time.sleep(_PAUSE_S)
