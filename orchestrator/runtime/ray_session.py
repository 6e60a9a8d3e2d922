"""Ray session of a process: an existing cluster, or a private instance on this machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from orchestrator.errors import ClusterError
from orchestrator.runtime.auth_settings import settings_of_client
from orchestrator.runtime.cluster_token import settings_to_join, token_settings
from orchestrator.runtime.early.early_start import take_instance
from orchestrator.runtime.forking.environment import chosen_address, prepare_environment
from orchestrator.runtime.forking.fork_server import forked_workers
from orchestrator.runtime.private_instance import early_instance, private_instance
from orchestrator.runtime.ray_private.core import bootstrap_address
from orchestrator.runtime.raylet import LocalRaylet

_ANSWER_S = 10.0
_lost_sessions: list[LocalRaylet] = []


@contextmanager
def ray_session(address: str | None = None, *, verbose: bool = False, modules: Sequence[str] = ()) -> Iterator[None]:
    """Connect to Ray for the duration of a sweep.

    A session that is already open is used and left open. With an address, or with `RAY_ADDRESS` as it is set inside a
    Ray job, that cluster is joined, with the user's token where it requires one; otherwise a private instance is
    started, and ended afterwards. A session whose raylet has ended is closed by the next one, or by the end of the
    process: threads of Tune and Train still wait for answers in it, and Ray aborts a process, without a message, when a
    thread uses a closed session.

    Args:
        address: Address of a running cluster; `auto` finds one on this machine.
        verbose: Whether to print Ray's own messages and the output of its workers.
        modules: Names of modules that its workers import; those of a private instance are then forked from a process
            that has imported them.

    Raises:
        ClusterError: The cluster does not answer, or refuses the token; the private instance does not start.
    """
    prepare_environment(os.environ)
    level = logging.INFO if verbose else logging.ERROR
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(level)
    if _lost_sessions:
        ray.shutdown()
        _lost_sessions.clear()
    if ray.is_initialized():
        yield
        return
    target = chosen_address(address)
    handler = signal.getsignal(signal.SIGTERM)
    with _private(modules, verbose, level) if target == "local" else _joined(target, verbose, level):
        _set_sigterm_handler(handler)
        raylet = LocalRaylet()
        try:
            yield
        finally:
            if raylet.gone:
                _lost_sessions.append(raylet)
            else:
                ray.shutdown()


def session_is_lost() -> bool:
    """Return whether Ray has ended under a session of this process, which then ends with `exit_without_ray`."""
    return bool(_lost_sessions)


@contextmanager
def _private(modules: Sequence[str], verbose: bool, level: int) -> Iterator[None]:
    """Start an instance for this process, or connect to the one that was started for it early."""
    with forked_workers(modules) as server:
        found = take_instance(server, verbose=verbose)
        with (
            private_instance(verbose=verbose, level=level)
            if found is None
            else early_instance(found, verbose=verbose, level=level, is_lost=session_is_lost)
        ):
            yield


@contextmanager
def _joined(target: str, verbose: bool, level: int) -> Iterator[None]:
    """Connect to a cluster, with its token where it requires one."""
    address = _bootstrap_address(target)
    _require_answer(target, address or target)
    settings = settings_of_client(os.environ) if address is None else settings_to_join(address, os.environ)
    with token_settings(settings):
        try:
            ray.init(address=target, log_to_driver=verbose, logging_level=level)
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            raise ClusterError(f"no Ray cluster answers at '{target}': {error}") from None
        yield


def _bootstrap_address(target: str) -> str | None:
    """Return host and port of a cluster's control service; None for Ray's client, which has a server of its own."""
    if target.startswith("ray://"):
        return None
    try:
        return bootstrap_address(target)
    except (ConnectionError, ValueError) as error:
        raise ClusterError(f"no Ray cluster answers at '{target}': {error}") from None


def _set_sigterm_handler(handler: Any) -> None:
    """Restore a handler of SIGTERM, which `ray.init` has replaced by one that prints a stack and exits."""
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _require_answer(target: str, address: str) -> None:
    """Check within seconds that a cluster answers; Ray itself would retry for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster answers at '{target}': {error}. Is the head running, the port open?"
        ) from None
