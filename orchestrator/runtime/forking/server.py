"""Process that imports what the workers of a sweep import, then forks one for each request of `start_worker.py`.

    python server.py {"path": [...], "modules": [...], "socket": 3, "folder": "/tmp/..."}

It stays a single thread, never connects to Ray and never uses a GPU, so that its children can. Standard input is a
pipe from the driver: `+` and `-` when a session begins and ends; its end, or a minute without a session, ends this
process. Standard output is a pipe to the driver, one line for each fault.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

IDLE_S = 60.0
_HANDSHAKE_S = 5.0
_MOST_BYTES = 2**22
_CREDENTIALS = struct.Struct("3i")  # process, user, group

Worker = Callable[[], None]


def main() -> None:
    """Import, then serve; returns in none but a forked worker, whose main function it runs."""
    # Sent to all processes of a terminal or a job; they are for the driver, with which this process ends.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.set_blocking(1, False)  # the driver reads its pipe only at the end
    setting = json.loads(sys.argv[1])
    environ = dict(os.environ)
    first_path = sys.path[:] if sys.flags.safe_path else sys.path[1:]
    sys.path[:] = setting["path"]
    try:
        with _ended_with_driver(setting["folder"]):
            worker_of = _imported(setting["modules"])
    except BaseException as error:
        _say(f"it cannot import what workers need: {type(error).__name__}: {error}")
        shutil.rmtree(setting["folder"], ignore_errors=True)
        os._exit(1)  # threads of the modules may never end
    added = [folder for folder in sys.path if folder not in setting["path"]]  # by Ray, when it is imported
    server = Server(socket.socket(fileno=setting["socket"]), worker_of, environ, (added, first_path))
    if (worker := server.serve()) is None:
        shutil.rmtree(setting["folder"], ignore_errors=True)
        os._exit(0)
    gc.enable()
    worker()


@contextlib.contextmanager
def _ended_with_driver(folder: str) -> Iterator[None]:
    """End this process when the driver ends within the context, by a signal of the kernel: imports take seconds.

    Args:
        folder: Folder of the socket.
    """

    def look(*_: Any) -> None:
        if any(event & select.POLLHUP for _, event in driver.poll(0)):
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(0)

    driver = select.poll()
    driver.register(0, select.POLLHUP)
    before = signal.signal(signal.SIGIO, look)
    flags = fcntl.fcntl(0, fcntl.F_GETFL)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        look()  # it may have ended before
        yield
    finally:
        fcntl.fcntl(0, fcntl.F_SETFL, flags)
        signal.signal(signal.SIGIO, before)


def _imported(modules: list[str]) -> Callable[..., Any]:
    """Import modules and return the module that turns a forked process into a worker.

    Raises:
        RuntimeError: The imports have started threads or have used a GPU, or forked workers would draw the same ids.
    """
    # Libraries read these when they are loaded. Ray sets the number of threads in each worker, which then follows it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    # Ray's library reads these when it is loaded: that this process belongs to no job, and whose end it should notice.
    os.environ["RAY_JOB_ID"] = "ffffffff"
    os.environ["RAY_RAYLET_PID"] = str(os.getppid())
    gc.disable()
    from orchestrator.runtime.forking import forked_worker

    forked_worker.import_all(modules)
    forked_worker.require_forkable()
    gc.freeze()  # a collection in a child would copy every page that it shares with this process
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no child is waited for
    return forked_worker.worker_of


def _say(line: str) -> None:
    """Write one line to the driver, which may have ended."""
    with contextlib.suppress(OSError):
        os.write(1, line.replace("\n", " ").encode() + b"\n")


class Server:
    """The loop of this process.

    Args:
        listener: Socket on which `start_worker.py` connects.
        worker_of: Function that checks a request and returns what the forked process does, or raises ValueError.
        environ: Environment with which this process was started.
        path: Module search path of a worker that is not forked: what comes before and after the folder of its script.
    """

    def __init__(
        self,
        listener: socket.socket,
        worker_of: Callable[..., Any],
        environ: dict[str, str],
        path: tuple[list[str], list[str]],
    ) -> None:
        self._listener = listener
        self._worker_of = worker_of
        self._environ = environ
        self._path = path
        self._sessions = 0
        self._said: set[str] = set()

    def serve(self) -> Worker | None:
        """Answer requests; return the worker in a forked process, None in this one when its time is over."""
        sources: list[Any] = [0, self._listener]
        while True:
            ready, _, _ = select.select(sources, [], [], None if self._sessions else IDLE_S)
            if not ready:
                return None
            if 0 in ready:
                told = os.read(0, 1024)
                if not told:
                    return None
                self._sessions += told.count(b"+") - told.count(b"-")
            if self._listener in ready:
                with self._listener.accept()[0] as client:
                    worker = self._answer(client)
                if worker is not None:
                    return worker

    def _answer(self, client: socket.socket) -> Worker | None:
        """Carry out one request; a client that hangs or vanishes is left to start its worker itself."""
        client.settimeout(_HANDSHAKE_S)
        files: list[int] = []
        try:
            _, user, _ = _CREDENTIALS.unpack(
                client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            if user != os.getuid():
                raise ValueError(f"a process of user {user} has no access to it")
            size, files, _, _ = socket.recv_fds(client, 4, 3)
            with client.makefile("rb") as stream:
                begin = self._agreed(client, stream, _request(stream, size, files))
            return self._begun(client, begin, files) if os.fork() == 0 else None
        except (KeyError, TypeError):
            self._refuse(client, "the request is malformed")
        except ValueError as error:
            self._refuse(client, str(error))
        except OSError as error:
            self._note(f"a worker was not forked: {error}")
        finally:
            for file in files:
                os.close(file)
        return None

    def _agreed(self, client: socket.socket, stream: Any, request: dict[str, Any]) -> Callable[[], Worker]:
        begin: Callable[[], Worker] = self._worker_of(request, self._environ, self._path)
        late = b""
        with contextlib.suppress(ConnectionError):
            client.sendall(b"GO\n")
            late = stream.readline()
        if not late.endswith(b"\n"):
            is_late = time.monotonic() - request["asked_s"] >= request["timeout_s"]
            raise OSError(
                f"it did not answer within {request['timeout_s']:g} s, as where the processors are busy"
                if is_late
                else "the process that asked for a worker has ended"
            )
        request.update(json.loads(late))
        return begin

    def _begun(self, client: socket.socket, begin: Callable[[], Worker], files: list[int]) -> Worker:
        """Make this forked process the worker, or end it: then the process that asked for it starts the worker itself.

        The worker answers, and not the server: where nobody reads the answer any more, there is another worker.
        """
        try:
            self._listener.close()
            worker = begin()
            client.sendall(b"STARTED\n")
            for target, file in enumerate(files):
                os.dup2(file, target)
        except BrokenPipeError:
            self._note("a forked process was too late for the one that asked for it")
            os._exit(1)
        except BaseException as error:
            self._refuse(client, f"a forked process cannot become the worker: {type(error).__name__}: {error}")
            os._exit(1)
        return worker

    def _refuse(self, client: socket.socket, reason: str) -> None:
        self._note(reason)
        with contextlib.suppress(OSError):
            client.sendall(reason.replace("\n", " ").encode() + b"\n")

    def _note(self, reason: str) -> None:
        """Tell the driver, once for each reason."""
        if reason not in self._said:
            self._said.add(reason)
            _say(reason)


def _request(stream: Any, size: bytes, files: list[int]) -> dict[str, Any]:
    """Return a request.

    Raises:
        ValueError: It is not one of `start_worker.py`.
    """
    count = int.from_bytes(size, "big")
    if len(size) != 4 or len(files) != 3 or not 0 < count <= _MOST_BYTES:
        raise ValueError("the request is malformed")
    request = json.loads(stream.read(count))
    if not isinstance(request, dict):
        raise ValueError("the request is malformed")
    return request


if __name__ == "__main__":
    main()
