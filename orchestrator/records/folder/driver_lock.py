"""Lock that keeps a second driver out of the folder of a sweep; the system releases it however its holder ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import SweepNameError

logger = logging.getLogger(__name__)

LOCK_FILE = "lock"
_LOCKLESS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
# `is_locked` holds the lock for an instant; a driver holds it until the sweep ends.
_PATIENCE_S = 1.0
_POLL_S = 0.05
_HOLDER = re.compile(r"process (\d+) on (\S+)")
_HOLDER_BYTES = 300
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a received folder may hold a link or a FIFO of this name


@contextlib.contextmanager
def driver_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a sweep's folder.

    On storage without locks this only logs a warning, unless the file names a process that is alive on this node.

    Args:
        folder: Folder of the sweep; created when absent.

    Raises:
        SweepNameError: Another driver holds the lock, or the folder cannot be written.
    """
    descriptor = _acquire(folder)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _own_name().encode())
        yield
    finally:
        # A folder deleted meanwhile no longer has the file; the descriptor is still open.
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Return whether a driver holds the lock of a folder.

    On storage without locks the content of the file decides: it names its holder, which empties it at its end.
    """
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | _FLAGS)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SweepNameError(f"{folder / LOCK_FILE} cannot be read ({error.strerror})") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _LOCKLESS:
            raise
        return _may_be_alive(_holder(descriptor))
    finally:
        os.close(descriptor)
    return False


def _acquire(folder: Path) -> int:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        descriptor = _open(folder)
        try:
            if _try(descriptor, folder) and _is_current(descriptor, folder):
                return descriptor
            holder = _holder(descriptor) or "another process"
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise _refusal(folder, holder)
        time.sleep(_POLL_S)


def _try(descriptor: int, folder: Path) -> bool:
    """Take the lock if it is free; log a warning on storage without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _LOCKLESS:
            raise
        holder = _holder(descriptor)
        if _is_alive_here(holder) and holder != _own_name():
            raise _refusal(folder, holder) from None
        logger.warning("%s: this storage has no locks (%s). See to it that one driver works there", folder, error)
    return True


def _open(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
    except OSError as error:
        raise SweepNameError(f"{folder / LOCK_FILE} cannot be written ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SweepNameError(f"{folder / LOCK_FILE} is no ordinary file; remove it")
    return descriptor


def _is_current(descriptor: int, folder: Path) -> bool:
    """Return whether the locked file is still in the folder: a deletion may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), (folder / LOCK_FILE).lstat())
    except FileNotFoundError:
        return False


def _own_name() -> str:
    return f"process {os.getpid()} on {os.uname().nodename}"


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, _HOLDER_BYTES, 0).decode(errors="replace")


def _refusal(folder: Path, holder: str) -> SweepNameError:
    return SweepNameError(f"sweep '{folder.name}' is being run by {holder}. Wait for its end, or press Ctrl-C there")


def _may_be_alive(holder: str) -> bool:
    """Return whether the holder named in the file may be running; one on another node counts as running."""
    named = _HOLDER.fullmatch(holder)
    return named is not None and (named[2] != os.uname().nodename or _is_alive_here(holder))


def _is_alive_here(holder: str) -> bool:
    named = _HOLDER.fullmatch(holder)
    if named is None or named[2] != os.uname().nodename:
        return False
    try:
        os.kill(int(named[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True
