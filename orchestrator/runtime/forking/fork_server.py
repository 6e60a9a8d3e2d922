"""Driver's side of the fork server: starts it, keeps it for the next session of this process, ends it.

    with forked_workers(LANE_MODULES):
        ray.init(address="local")

`begin` starts it in advance, so that its imports take place while the driver imports and starts Ray. It ends with the
driver, however that ends, or a minute after the last session.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from orchestrator.errors import ClusterError
from orchestrator.runtime.forking.environment import differences
from orchestrator.runtime.forking.start_worker import SCRIPT, SOCKET

logger = logging.getLogger(__name__)

SWITCH = "SPATIALSWEEP_FORK_WORKERS"
# With others, workers start as Ray starts them: a forked one depends on what Ray's library does when it is loaded.
_TESTED_RAY = ("2.60.",)
_SERVER = Path(__file__).with_name("server.py")
_CLIENT = Path(__file__).with_name("start_worker.py")
_BACKLOG = 512
_FOLDER, _SOCKET = "fork", "socket"
_RANDOM_CHARACTERS = 8
_SOCKET_BYTES = 107
_RAY_ADDS = ("ray", "thirdparty_files")


class ForkServer:
    """A running fork server; a child process of this one.

    Args:
        modules: Names of the modules that it imports.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = tuple(modules)
        self._environ = dict(os.environ)
        self._path = search_path()
        self._folder = _private_folder()
        self.socket = str(self._folder / _SOCKET)
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                # Workers connect to it while the server still imports.
                listener.bind(self.socket)
                listener.listen(_BACKLOG)
                self._process = self._started(listener.fileno())
        except OSError:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._sessions, self._faults = self._process.stdin, self._process.stdout
        os.set_blocking(self._faults.fileno(), False)

    def _started(self, listener: int) -> subprocess.Popen[bytes]:
        setting = {"path": self._path, "modules": self._modules, "socket": listener, "folder": str(self._folder)}
        # Interpreter options as those with which Ray starts a worker.
        flags = ["-S"] * sys.flags.no_site + ["-s"] * sys.flags.no_user_site
        return subprocess.Popen(  # noqa: S603 - this interpreter
            [sys.executable, *flags, str(_SERVER), json.dumps(setting)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[listener],
            bufsize=0,
        )

    @property
    def pid(self) -> int:
        """Process id, which is that of the workers' parent."""
        return self._process.pid

    def suits(self, modules: Sequence[str]) -> bool:
        """Return whether it runs and has what workers of an instance that begins now need."""
        return (
            self._process.poll() is None
            and tuple(modules) == self._modules
            and self._path == search_path()
            and not differences(self._environ, os.environ)
        )

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Keep it alive within the context; log its faults afterwards.

        Raises:
            OSError: It has ended.
        """
        self._write(b"+")
        try:
            yield
        finally:
            with contextlib.suppress(OSError, ValueError):  # it has ended, or was closed
                self._write(b"-")
            for fault in self._new_faults():
                logger.warning("Workers were started without the fork server, which takes longer: %s.", fault)

    def close(self) -> None:
        """End the process; workers that it has forked stay."""
        self._process.kill()
        self._process.wait()
        self._sessions.close()
        self._faults.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, sign: bytes) -> None:
        self._sessions.write(sign)

    def _new_faults(self) -> list[str]:
        if self._faults.closed:
            return []
        said = (self._faults.read() or b"").decode(errors="replace").splitlines()
        faults = list(dict.fromkeys(said))  # forked processes repeat what others have said
        if not faults and (code := self._process.poll()) is not None:
            return [f"it has ended with code {code}"]
        return faults


_servers: list[ForkServer] = []


def begin(modules: Sequence[str]) -> ForkServer | None:
    """Return the fork server of this process, started now unless one that suits is there; None where there is none.

    Args:
        modules: Names of the modules that it imports.

    Raises:
        ClusterError: `SPATIALSWEEP_FORK_WORKERS` is neither 0 nor 1.
    """
    if not _is_wanted():
        return None
    if _servers and _servers[-1].suits(modules):
        return _servers[-1]
    end()
    try:
        _servers.append(ForkServer(modules))
    except OSError as error:
        logger.warning("Workers start without a fork server, which takes longer: %s.", error)
        return None
    return _servers[-1]


@contextlib.contextmanager
def forked_workers(modules: Sequence[str]) -> Iterator[ForkServer | None]:
    """Have an instance of Ray that is started and ended within the context fork its workers.

    Args:
        modules: Names of the modules that workers import; none for workers that are not forked.
    """
    server = begin(modules) if modules else None
    with contextlib.ExitStack() as stack:
        if server is not None:
            try:
                stack.enter_context(server.session())
            except OSError:  # it has ended since it was looked at
                server = None
        if server is not None:
            stack.enter_context(worker_command(server.socket))
        yield server


@contextlib.contextmanager
def worker_command(path: str) -> Iterator[None]:
    """Have Ray start workers through a fork server; the raylet passes its environment to them.

    Args:
        path: Path of the server's socket.
    """
    from orchestrator.runtime.ray_private.instance import WORKER_SCRIPT, started_by

    own = {SOCKET: path, SCRIPT: str(WORKER_SCRIPT)}
    os.environ.update(own)
    try:
        with started_by(_CLIENT):
            yield
    finally:
        for name in own:
            os.environ.pop(name, None)


def _private_folder() -> Path:
    """Make a folder that only this user can enter, with a path short enough for a socket in it."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > _SOCKET_BYTES - len(f"/{_FOLDER}{'x' * _RANDOM_CHARACTERS}/{_SOCKET}"):
        parent = "/tmp"  # noqa: S108 - the folder made there has a random name and is for this user alone
    return Path(tempfile.mkdtemp(prefix=_FOLDER, dir=parent))


def search_path() -> list[str]:
    """Return the module search path of this process, absolute, without what Ray adds to it when it is imported."""
    return [str(Path(folder).absolute()) for folder in sys.path if Path(folder).parts[-2:] != _RAY_ADDS]


def _is_wanted() -> bool:
    value = os.environ.get(SWITCH, "1")
    if value not in {"0", "1"}:
        raise ClusterError(
            f"SPATIALSWEEP_FORK_WORKERS is '{value}'. Set it to 1, or to 0 to start each worker of Ray on its own."
        )
    return value == "1" and sys.platform == "linux" and version("ray").startswith(_TESTED_RAY)


def end() -> None:
    """End the fork server of this process, if there is one; workers that it has forked stay."""
    while _servers:
        _servers.pop().close()


atexit.register(end)
