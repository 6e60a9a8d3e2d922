"""Private names of Ray's core (2.60) with which a forked process becomes one of its workers; imports no torch."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import psutil
import ray.actor
from ray._private import utils
from ray._raylet import ActorClassID, UniqueID

__all__ = ["end_with_raylet", "follow_thread_limits", "fresh_id", "unseeded_ids"]

_POLL_S = 0.5


@contextmanager
def unseeded_ids() -> Iterator[None]:
    """Leave the generator of ids as it is while classes of actors are defined, each of which draws one.

    A process seeds it on first use. Processes forked later would all draw the same ids, of placement groups for one.
    """
    names = vars(ray.actor)
    before = names["ActorClassID"]
    names["ActorClassID"] = SimpleNamespace(from_random=lambda: ActorClassID(os.urandom(ActorClassID.size())))
    try:
        yield
    finally:
        names["ActorClassID"] = before


def fresh_id() -> bytes:
    """Return an id from the generator of this process."""
    return bytes(UniqueID.from_random().binary())


def follow_thread_limits() -> None:
    """Have torch, if it is loaded, use as many threads as Ray sets in `OMP_NUM_THREADS` before a task or an actor.

    OpenMP reads the variable when it is loaded; in a worker that is not forked, Ray sets it before torch is imported.
    """
    ray_sets: Any = utils.set_omp_num_threads_if_unset

    def set_threads() -> bool:
        has_set = bool(ray_sets())
        torch = sys.modules.get("torch")
        if has_set and torch is not None:
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        return has_set

    vars(utils)["set_omp_num_threads_if_unset"] = set_threads


def end_with_raylet() -> None:
    """End this process when its raylet ends.

    Ray's library reads `RAY_RAYLET_PID` once, when it is loaded, and so before there was a raylet. A worker ends itself
    when its connection breaks and that process is gone.
    """
    wait_for = _end_of(int(os.environ["RAY_RAYLET_PID"]))

    def wait() -> None:
        wait_for()
        os._exit(1)

    threading.Thread(target=wait, name="raylet", daemon=True).start()


def _end_of(process: int) -> Callable[[], None]:
    """Return a function that waits for the end of a process which runs now.

    Raises:
        psutil.NoSuchProcess: It does not run.
    """
    try:
        handle = os.pidfd_open(process)
    except (AttributeError, OSError):  # of Linux 5.3, which this Python may not know, and a sandbox may forbid
        found = psutil.Process(process)

        def poll() -> None:
            with contextlib.suppress(psutil.NoSuchProcess):
                while found.is_running() and found.status() != psutil.STATUS_ZOMBIE:
                    time.sleep(_POLL_S)

        return poll

    def wait() -> None:
        select.select([handle], [], [])

    return wait
