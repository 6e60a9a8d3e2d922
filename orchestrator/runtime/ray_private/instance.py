"""Private names of Ray's core (2.60) that decide which processes a private instance starts; imports no torch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import node, parameter

__all__ = ["WORKER_SCRIPT", "node_of", "started_by", "without_helpers"]

WORKER_SCRIPT = Path(ray.__file__).parent / "_private" / "workers" / "default_worker.py"


@contextmanager
def started_by(script: Path) -> Iterator[None]:
    """Have instances of Ray that begin within the context start their workers through another script.

    The raylet runs it in place of `default_worker.py`, with the same arguments, and recognises the worker by
    `--worker-id` and the process id that the worker itself announces. `ray.init` has no argument for it.

    Args:
        script: Script that starts a worker.
    """
    with _parameters(worker_path=str(script)):
        yield


@contextmanager
def without_helpers(*, logs: bool) -> Iterator[None]:
    """Have instances of Ray that begin within the context start no processes that one machine has no use for.

    These are the monitor of the autoscaler, the server of the dashboard, which Ray starts without its pages even with
    `include_dashboard=False`, and the monitor of log files: 2 s of processor time together.

    Args:
        logs: Whether to start the monitor of log files, which prints the output of workers in the driver.
    """

    def no_server(self: Any, **_: Any) -> None:
        self._webui_url = ""

    names = vars(node)
    before = names["Node"]
    names["Node"] = type("Node", (before,), {"start_api_server": no_server})
    try:
        with _parameters(no_monitor=True, include_log_monitor=logs):
            yield
    finally:
        names["Node"] = before


def node_of(start: Callable[[], None]) -> Any:
    """Return the `Node` whose processes `ray.init(address="local")` starts, without a connection to it.

    Settings of the instance are those of `ray.init`, which is left once it has started the processes.

    Args:
        start: Function that calls `ray.init`.
    """

    class Started(BaseException):
        pass

    def begin(self: Any, *arguments: Any, **settings: Any) -> None:
        before.__init__(self, *arguments, **settings)
        raise Started(self)

    names = vars(node)
    before = names["Node"]
    names["Node"] = type("Node", (before,), {"__init__": begin})
    try:
        start()
    except Started as started:
        return started.args[0]
    finally:
        names["Node"] = before
    raise AssertionError("ray.init has not started a node")


@contextmanager
def _parameters(**changed: Any) -> Iterator[None]:
    names = vars(parameter)
    before = names["RayParams"]
    names["RayParams"] = functools.partial(before, **changed)
    try:
        yield
    finally:
        names["RayParams"] = before
