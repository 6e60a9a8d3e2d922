"""Process that starts a private Ray instance, keeps it for its driver, and ends it.

    python instance_process.py {"path": [...], "channel": 3, "starter": "...", "settings": {...}}

The channel is a socket of the driver. A line with the folder of the instance goes there, and one when the instance has
started; in place of either, one with the error. `USED` and `KEEP` come from it; its end ends this process, the instance
and its folder, at any time. A driver that is killed closes it, too. Ray's processes end with this one in any case
(`PR_SET_PDEATHSIG`).

The starter is a module with the functions of `ray_instance.py`. Nothing else is imported but the standard library and
psutil, so that tests have starters of their own.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import logging
import os
import select
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

USED = b"u"
"""The driver connects to the instance: end it as Ray does, so that workers can end themselves."""

KEEP = b"k"
"""The folder stays: an error refers to its logs."""

_END_S = 5.0
_TERMINAL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _DriverEnded(BaseException):
    """The driver has closed the channel."""


class _Warnings(logging.Handler):
    """Collector of warnings, which the driver shows if it uses the instance."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def main() -> None:
    """Start an instance and wait for the end of the channel."""
    leave_signals_to_driver()
    setting = json.loads(sys.argv[1])
    sys.path[:] = setting["path"]
    channel = socket.socket(fileno=setting["channel"])
    warnings = _Warnings()
    logging.getLogger("orchestrator").addHandler(warnings)
    gc.disable()
    try:
        with _interrupted_by_end_of(channel):
            starter = importlib.import_module(setting["starter"])
        gc.enable()
        _serve(channel, starter, setting["settings"], warnings)
    except Exception as error:
        _answer(channel, {"error": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(0)  # Ray's own hooks and threads have nothing left to end


def _serve(channel: socket.socket, starter: Any, settings: dict[str, Any], warnings: _Warnings) -> None:
    """Start an instance, report it, and end it with the channel."""
    folder: Path = starter.make_folder()
    keep = False
    try:
        _answer(channel, {"folder": str(folder)})
        with _interrupted_by_end_of(channel):
            found = starter.start(folder, **settings)
        leave_signals_to_driver()  # Ray has set a handler
        _answer(channel, {**found, "warnings": warnings.texts})
        signs = b"".join(iter(lambda: channel.recv(16), b""))
        keep = KEEP in signs
        if USED in signs:
            starter.stop()
    except _DriverEnded:
        return
    finally:
        _end_children()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def leave_signals_to_driver() -> None:
    """Do nothing on signals that a terminal or a job manager sends to all processes of a command.

    They are not ignored, which child processes would inherit.
    """
    for number in _TERMINAL:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@contextlib.contextmanager
def _interrupted_by_end_of(channel: socket.socket) -> Iterator[None]:
    """Interrupt this thread within the context when the driver closes its end, by a signal of the kernel.

    Raises:
        _DriverEnded: The channel has ended.
    """

    def interrupt(*_: Any) -> None:
        raise _DriverEnded

    before = signal.signal(signal.SIGIO, interrupt)
    flags = fcntl.fcntl(channel, fcntl.F_GETFL)
    fcntl.fcntl(channel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(channel, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        if select.select([channel], [], [], 0)[0]:  # it has ended before
            raise _DriverEnded
        yield
    finally:
        fcntl.fcntl(channel, fcntl.F_SETFL, flags)
        signal.signal(signal.SIGIO, before)


def _answer(channel: socket.socket, found: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the driver has ended
        channel.sendall(json.dumps(found).encode() + b"\n")


def _end_children() -> None:
    """Kill all processes below this one, and wait for them."""
    import psutil

    while children := psutil.Process().children(recursive=True):
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        _, left = psutil.wait_procs(children, _END_S)
        if left:  # in a system call that nothing interrupts
            return


if __name__ == "__main__":
    main()
