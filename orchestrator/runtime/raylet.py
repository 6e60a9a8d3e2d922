"""Ray on the driver's own node, through which a driver reaches its cluster."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

import psutil

from orchestrator.runtime.ray_private.core import driver_node


class LocalRaylet:
    """The raylet of this node, as the open session found it.

    A driver whose raylet has ended, with the head or for want of memory, can do nothing more. Ray goes on asking for a
    minute, says so in hundreds of lines, and then ends the process.
    """

    def __init__(self) -> None:
        node = driver_node()
        self._process = _listening_at(node.raylet_socket_name) if node is not None else None

    @property
    def gone(self) -> bool:
        """Whether it has ended; never so where it was not found, as under a foreign user."""
        if self._process is None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            return not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE
        return True

    @property
    def loss(self) -> str:
        """What to say of its end."""
        pid = self._process.pid if self._process is not None else 0
        return (
            f"Ray has ended under this sweep: its raylet on this machine, process {pid}, is gone. Was it killed, was "
            "there no memory left (`dmesg`), was the head started again?"
        )


def exit_without_ray(code: int) -> NoReturn:
    """Ends a process whose raylet is gone, and what is left of a private Ray; Ray would take leave for a minute."""
    if (node := driver_node()) is not None:
        node.kill_all_processes(check_alive=False)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _listening_at(socket: str) -> psutil.Process | None:
    wanted = f"--raylet_socket_name={socket}"
    for process in psutil.process_iter(["cmdline"]):
        if wanted in (process.info["cmdline"] or []):
            return process
    return None
