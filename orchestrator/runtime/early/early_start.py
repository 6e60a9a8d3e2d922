"""Driver's side of an instance that starts early: starts its process, hands it to the session, ends it.

    begin_early(None, LANE_MODULES)
    ...                                  # imports and checks
    with ray_session(modules=LANE_MODULES):

The process (`instance_process.py`) ends with the driver, however that ends. Nothing here imports Ray.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orchestrator.runtime.early.instance_process import KEEP, USED
from orchestrator.runtime.forking import fork_server
from orchestrator.runtime.forking.environment import chosen_address, differences, prepare_environment
from orchestrator.runtime.forking.fork_server import ForkServer, search_path

logger = logging.getLogger(__name__)

# With others, the session starts its instance itself.
_TESTED_RAY = ("2.60.",)
_SCRIPT = Path(__file__).with_name("instance_process.py")
_STARTER = "orchestrator.runtime.early.ray_instance"
_END_S = 20.0


class EarlyInstance:
    """A child process that starts an instance and ends it.

    Args:
        server: Fork server that starts the instance's workers; None where each is started on its own.
        verbose: Whether to print Ray's messages and the output of workers.
        starter: Name of the module that starts the instance.

    Raises:
        OSError: The process cannot be started.
    """

    def __init__(self, server: ForkServer | None, *, verbose: bool, starter: str = _STARTER) -> None:
        self._needs = self._present_needs(server, verbose)
        self._environ = dict(os.environ)
        self._folder: str | None = None
        self._answer: dict[str, Any] | None = None
        self._keeps_folder = False
        settings = {"verbose": verbose, "fork_server": None if server is None else server.socket}
        self._channel, theirs = socket.socketpair()
        self._lines = self._channel.makefile("rb")
        try:
            with theirs:
                setting = {
                    "path": search_path(),
                    "channel": theirs.fileno(),
                    "starter": starter,
                    "settings": settings,
                }
                flags = ["-S"] * sys.flags.no_site + ["-s"] * sys.flags.no_user_site
                self._process = subprocess.Popen(  # noqa: S603 - this interpreter
                    [sys.executable, *flags, str(_SCRIPT), json.dumps(setting)],
                    stdout=subprocess.DEVNULL,
                    stderr=None if verbose else subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
        except OSError:
            self._close_channel()
            raise

    @property
    def pid(self) -> int:
        """Process id, which is that of the parent of Ray's processes."""
        return self._process.pid

    @property
    def is_used(self) -> bool:
        """True once a session has taken it."""
        return self._answer is not None

    @property
    def address(self) -> str:
        """Host and port of its control service."""
        return str(self._started()["address"])

    @property
    def logs(self) -> str:
        """Path of Ray's logs."""
        return str(self._started()["logs"])

    @property
    def token(self) -> dict[str, str]:
        """Authentication settings with which a process connects to it."""
        return dict(self._started()["token"])

    def _started(self) -> dict[str, Any]:
        assert self._answer is not None
        return self._answer

    def is_ready(self, server: ForkServer | None, *, verbose: bool) -> bool:
        """Wait until it has started; return whether it has, and is what a session would start now.

        Args:
            server: Fork server of the session.
            verbose: Whether the session prints Ray's messages and the output of workers.
        """
        changed = differences(self._environ, os.environ)
        if changed or self._needs != self._present_needs(server, verbose):
            logger.debug("An instance that was started early does not suit: %s", ", ".join(changed) or "other settings")
            return False
        answer = self._read_folder() or self._line()
        if "error" in answer:
            logger.debug("An instance could not be started early: %s", answer["error"])
            return False
        for text in answer["warnings"]:
            logger.warning("%s", text)
        self._answer = answer
        return True

    def use(self) -> None:
        """Have it end as Ray ends an instance, after this: workers can end themselves."""
        self._send(USED)

    def keep_folder(self) -> None:
        """Have its folder stay when it ends."""
        self._keeps_folder = True
        self._send(KEEP)

    def close(self) -> None:
        """End it, and wait until nothing of it is left."""
        with suppress(OSError):  # closed before
            self._channel.shutdown(socket.SHUT_WR)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # and with it Ray's processes
            self._process.wait()
            self._channel.settimeout(_END_S)
            self._read_folder()
            if self._folder is not None and not self._keeps_folder:
                shutil.rmtree(self._folder, ignore_errors=True)
        finally:
            self._close_channel()

    def _read_folder(self) -> dict[str, Any]:
        """Read the path of its folder from its first line, once; return the line if it has none."""
        if self._folder is not None:
            return {}
        line = self._line()
        self._folder = line.get("folder")
        return line if self._folder is None else {}

    def _line(self) -> dict[str, Any]:
        """Return its next line, or an error where it has ended before, or within the line."""
        try:
            return dict(json.loads(self._lines.readline()))
        except (OSError, ValueError):
            return {"error": "it has ended"}

    def _close_channel(self) -> None:
        self._lines.close()
        self._channel.close()

    def _send(self, sign: bytes) -> None:
        with suppress(OSError):  # it has ended, and so has Ray: the session notices that itself
            self._channel.sendall(sign)

    @staticmethod
    def _present_needs(server: ForkServer | None, verbose: bool) -> tuple[Any, ...]:
        """Return what decides how an instance is started, besides the environment."""
        return None if server is None else server.socket, verbose, Path.cwd(), search_path()


_instances: list[EarlyInstance] = []


def begin_early(address: str | None, modules: Sequence[str], *, verbose: bool = False) -> None:
    """Start fork server and instance for a command that will need them, before anything heavy is imported.

    Where the command joins a cluster, nothing is started.

    Args:
        address: Address that the user has given.
        modules: Names of the modules that workers import.
        verbose: Whether the command prints Ray's messages and the output of workers.

    Raises:
        ClusterError: `SPATIALSWEEP_FORK_WORKERS` is neither 0 nor 1.
    """
    if chosen_address(address) != "local":
        return
    prepare_environment(os.environ)
    server = fork_server.begin(modules)
    if _instances or sys.platform != "linux" or not version("ray").startswith(_TESTED_RAY):
        return
    try:
        _instances.append(EarlyInstance(server, verbose=verbose))
    except OSError as error:
        logger.debug("An instance could not be started early: %s", error)


def take_instance(server: ForkServer | None, *, verbose: bool) -> EarlyInstance | None:
    """Return the instance that was started early, once; None where there is none that suits.

    Args:
        server: Fork server of the session.
        verbose: Whether the session prints Ray's messages and the output of workers.
    """
    if not _instances or _instances[-1].is_used:
        return None
    if _instances[-1].is_ready(server, verbose=verbose):
        return _instances[-1]
    end_early()
    return None


def end_early() -> None:
    """End the instance that was started early, if there is one."""
    while _instances:
        _instances.pop().close()


def break_off() -> None:
    """End what `begin_early` has started, for a command that does not need it after all."""
    end_early()
    fork_server.end()


def _end_at_exit() -> None:
    with suppress(KeyboardInterrupt):  # a second Ctrl-C: what is left ends without this process
        end_early()


atexit.register(_end_at_exit)
