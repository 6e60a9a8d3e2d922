"""Script that Ray's raylet runs in place of its own for each worker: has the fork server start the worker.

It takes 20 ms of processor time, since it imports nothing but the standard library. Where no server answers, or the
server's imports do not suit this worker, it becomes Ray's own script, as if it had never run.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys
import time
from typing import Any

SOCKET = "SPATIALSWEEP_FORK_SERVER"
SCRIPT = "SPATIALSWEEP_RAY_WORKER"
# Ray starts another process for a worker that has not registered after 60 s.
TIMEOUT_S = 30.0
FORK_TIMEOUT_S = 10.0
GO = b"GO\n"
STARTED = b"STARTED\n"
_LIMITS = sorted({number for name, number in vars(resource).items() if name.startswith("RLIMIT_")})


def main() -> None:
    """Start the worker in the fork server, or in this process where that is not possible."""
    try:
        reason = _forked()
    except (OSError, ValueError) as error:
        reason = f"the fork server does not answer: {error}"
    if not reason:
        os._exit(0)
    sys.stderr.write(f"A worker starts without the fork server: {reason}\n")
    sys.stderr.flush()
    script, flags = os.environ[SCRIPT], sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv)]
    for name in (SOCKET, SCRIPT):
        del os.environ[name]
    os.execv(sys.executable, [sys.executable, *flags, script, *sys.argv[1:]])  # noqa: S606


def _forked() -> str:
    """Return why the worker was not forked; empty when it was."""
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(TIMEOUT_S)
        server.connect(os.environ[SOCKET])
        payload = json.dumps(_own_state()).encode()
        socket.send_fds(server, [len(payload).to_bytes(4, "big")], [0, 1, 2])
        server.sendall(payload)
        with server.makefile("rwb") as answers:
            if (answer := answers.readline()) != GO:
                return answer.decode().strip() or "it has ended"
            # From here on the server forks; before, it would not for a process that no longer waits.
            answers.write(json.dumps(_late_state()).encode() + b"\n")
            answers.flush()
            server.settimeout(FORK_TIMEOUT_S)
            try:
                answer = answers.readline()
            except TimeoutError:
                # A worker that answers late finds no reader and ends; one that was just faster has answered by now.
                server.shutdown(socket.SHUT_RD)
                answer = server.recv(len(STARTED)) or b"it does not answer in time"
            return "" if answer == STARTED else answer.decode().strip() or "it cannot fork"


def _own_state() -> dict[str, Any]:
    """Return what the worker takes over from this process, and what the server must have in common with it."""
    environ = {name: value for name, value in os.environ.items() if name not in {SOCKET, SCRIPT}}
    ignored = [int(number) for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN]
    umask = os.umask(0)
    os.umask(umask)
    return {
        "arguments": [os.environ[SCRIPT], *sys.argv[1:]],
        "asked_s": time.monotonic(),
        "timeout_s": TIMEOUT_S,
        "interpreter": interpreter(),
        "environ": environ,
        "folder": os.getcwd(),  # noqa: PTH109 - pathlib would take as long to import as the rest
        "umask": umask,
        "limits": {str(number): resource.getrlimit(number) for number in _LIMITS},
        "processors": sorted(os.sched_getaffinity(0)),
        "ignored_signals": ignored,
        "blocked_signals": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    }


def _late_state() -> dict[str, Any]:
    """Return what the raylet sets after it has started this process."""
    state: dict[str, Any] = {"niceness": os.getpriority(os.PRIO_PROCESS, 0)}
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj") as file:  # noqa: PTH123
        state["oom_score_adj"] = file.read().strip()
    return state


def interpreter() -> list[Any]:
    """Return what identifies the interpreter of this process and its options."""
    return [sys.executable, sys.prefix, list(sys.flags)]


if __name__ == "__main__":
    main()
