"""Paths of the sockets through which decoding processes send images; a system bounds their length."""

from __future__ import annotations

import os
import tempfile
from multiprocessing import util

_LONGEST = 103  # bytes of a socket's path on macOS; Linux has four more
_BELOW = len("/pymp-xxxxxxxx/listener-xxxxxxxx")


def keep_socket_paths_short() -> None:
    """Create the sockets of this process and its children below `/tmp` where `TMPDIR` is too long for them.

    Python 3.14 does so by itself.
    """
    if len(os.fsencode(tempfile.gettempdir())) + _BELOW <= _LONGEST:
        return
    before = tempfile.tempdir
    tempfile.tempdir = "/tmp"  # noqa: S108 - a folder for this user alone is made there
    try:
        util.get_temp_dir()  # caches its result
    finally:
        tempfile.tempdir = before
