"""Processes of a private Ray instance, which `instance_process.py` starts and does not connect to."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from orchestrator.runtime.cluster_token import token_settings
from orchestrator.runtime.forking.fork_server import worker_command
from orchestrator.runtime.private_instance import init_private, logs_folder, new_folder, own_token
from orchestrator.runtime.ray_private.instance import node_of

_settings = ExitStack()
_nodes: list[Any] = []


def make_folder() -> Path:
    """Make the folder of the instance.

    Raises:
        ClusterError: No folder can be made.
    """
    return new_folder(os.environ)


def start(folder: Path, *, verbose: bool, fork_server: str | None) -> dict[str, Any]:
    """Start the processes of an instance; return what a driver needs to connect to it.

    Args:
        folder: Folder of the instance.
        verbose: Whether to start the monitor of log files, and to print Ray's own messages.
        fork_server: Path of the socket of the fork server; None where each worker is started on its own.

    Raises:
        ClusterError: It does not start.
    """
    token = own_token(os.environ)
    _settings.enter_context(token_settings(token))
    if fork_server is not None:
        _settings.enter_context(worker_command(fork_server))
    level = logging.INFO if verbose else logging.ERROR
    node = node_of(lambda: init_private(folder, verbose=verbose, level=level))
    _nodes.append(node)
    return {"address": node.gcs_address, "token": token, "logs": str(logs_folder(folder))}


def stop() -> None:
    """End the processes as `ray.shutdown` does."""
    for node in _nodes:
        node.destroy_external_storage()
        node.kill_all_processes(check_alive=False, allow_graceful=True)
