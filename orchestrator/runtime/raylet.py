"""Raylet of the driver's own node, through which a driver reaches its cluster."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

import psutil

from orchestrator.runtime.early.early_start import end_early
from orchestrator.runtime.ray_private.core import driver_node


class LocalRaylet:
    """Raylet process of this node in the open session.

    A driver whose raylet has ended, with the head or out of memory, cannot continue. Ray retries for a minute, logs
    hundreds of lines, and then ends the process.
    """

    def __init__(self) -> None:
        node = driver_node()
        self._process = _listening_at(node.raylet_socket_name) if node is not None else None

    @property
    def gone(self) -> bool:
        """True when the raylet has ended; False where its process was not found, as under another user."""
        if self._process is None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            return not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE
        return True

    @property
    def loss(self) -> str:
        """Message about the end of the raylet."""
        pid = self._process.pid if self._process is not None else 0
        return (
            f"Ray has ended under this sweep: its raylet on this machine, process {pid}, is gone. Was it killed, was "
            "there no memory left (`dmesg`), was the head started again?"
        )


def exit_without_ray(code: int) -> NoReturn:
    """End this process, whose raylet is gone, and the rest of a private instance; Ray itself would take a minute."""
    if (node := driver_node()) is not None:
        node.kill_all_processes(check_alive=False)
    end_early()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _listening_at(socket: str) -> psutil.Process | None:
    wanted = f"--raylet_socket_name={socket}"
    for process in psutil.process_iter(["cmdline"]):
        if wanted in (process.info["cmdline"] or []):
            return process
    return None
