"""Processes that load images pass them on through sockets, whose paths a system bounds."""

from __future__ import annotations

import os
import tempfile
from multiprocessing import util

_LONGEST = 103  # bytes, of a socket's path: macOS; Linux has four more
_BELOW = len("/pymp-xxxxxxxx/listener-xxxxxxxx")


def keep_socket_paths_short() -> None:
    """Have this process and those it starts put their sockets below `/tmp` where `TMPDIR` is too long for them.

    Python 3.14 does so by itself.
    """
    if len(os.fsencode(tempfile.gettempdir())) + _BELOW <= _LONGEST:
        return
    before = tempfile.tempdir
    tempfile.tempdir = "/tmp"  # noqa: S108 - a folder for this user alone is made there
    try:
        util.get_temp_dir()  # which is remembered
    finally:
        tempfile.tempdir = before
