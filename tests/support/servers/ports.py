"""Ports for servers that are started, stopped and restarted under one address."""

from __future__ import annotations

import itertools
import os
import random
import socket
from pathlib import Path

_RAYS_LAST = 19_999  # of the ports that Ray gives to its workers
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_DEFAULT_FIRST = 32_768  # of Linux


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens, each once.

    A port that the system hands out for port 0 may go to any other connection before the server listens there, or while
    it is stopped. These are below the system's range. The processes of pytest-xdist share them out.
    """
    return next(port for port in _PORTS if _is_free(port))


def _ports() -> itertools.cycle[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else _DEFAULT_FIRST
    mine = list(range(_RAYS_LAST + 1, first))[worker::workers]
    begin = random.SystemRandom().randrange(len(mine))  # tests that run beside these
    return itertools.cycle(mine[begin:] + mine[:begin])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


_PORTS = _ports()
