"""A forked process as a worker that Ray has started as usual, and the checks of the fork server."""

from __future__ import annotations

import importlib
import os
import random
import resource
import runpy
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.runtime.forking.environment import differences
from orchestrator.runtime.forking.start_worker import interpreter
from orchestrator.runtime.ray_private.core import reload_authentication
from orchestrator.runtime.ray_private.forked_process import (
    end_with_raylet,
    follow_thread_limits,
    fresh_id,
    unseeded_ids,
)

_GPU_FILES = ("/dev/nvidia", "/dev/kfd", "/dev/dri/", "/dev/dxg")


def import_all(modules: Iterable[str]) -> None:
    """Import modules, without a use of the generator from which Ray draws its ids.

    Args:
        modules: Names of modules.
    """
    with unseeded_ids():
        for name in modules:
            importlib.import_module(name)


def require_forkable() -> None:
    """Check that children of this process work like processes of their own.

    Raises:
        RuntimeError: There is another thread, a GPU is in use, or children draw the same ids.
    """
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    if len(threads) > 1:
        raise RuntimeError(f"the imports have started threads ({', '.join(threads)})")
    if any(str(file.resolve()).startswith(_GPU_FILES) for file in Path("/proc/self/fd").iterdir()):
        raise RuntimeError("the imports have used a GPU")
    if _id_of_child() == _id_of_child():
        raise RuntimeError("its children draw the same ids")


def _id_of_child() -> bytes:
    """Return an id that Ray makes in a forked process."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, fresh_id())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        found = file.read()
    os.waitpid(child, 0)
    return found


def worker_of(
    request: Mapping[str, Any], environ: Mapping[str, str], path: tuple[list[str], list[str]]
) -> Callable[[], Callable[[], None]]:
    """Return the function that makes a forked process the worker of a request, and returns its main function.

    Args:
        request: Request of `start_worker.py`; its late state is added before the process is forked.
        environ: Environment with which this process was started.
        path: Module search path of a new process: what comes before and after the folder of its script.

    Raises:
        ValueError: The worker needs another interpreter, or another environment while modules are imported.
    """
    if request["interpreter"] != interpreter():
        raise ValueError(f"it needs another interpreter or options than {sys.executable}")
    if different := differences(environ, request["environ"]):
        raise ValueError(f"it needs another environment ({', '.join(different)})")
    return partial(_take_over, request, path)


def _take_over(request: Mapping[str, Any], path: tuple[list[str], list[str]]) -> Callable[[], None]:
    """Take over the state of the process that Ray has started; return the run of Ray's script for workers."""
    os.setpgid(0, 0)  # Ray ends the process group of a worker with it
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        ignored = int(number) in request["ignored_signals"]
        if ignored != (signal.getsignal(number) is signal.SIG_IGN):
            signal.signal(number, signal.SIG_IGN if ignored else _default_handler(int(number)))
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked_signals"])
    os.umask(request["umask"])
    for limited, values in request["limits"].items():
        if resource.getrlimit(int(limited)) != tuple(values):
            resource.setrlimit(int(limited), tuple(values))
    if os.sched_getaffinity(0) != set(request["processors"]):
        os.sched_setaffinity(0, request["processors"])
    os.chdir(request["folder"])
    os.setpriority(os.PRIO_PROCESS, 0, request["niceness"])
    if "oom_score_adj" in request:
        Path("/proc/self/oom_score_adj").write_text(request["oom_score_adj"])
    os.environ.clear()
    os.environ.update(request["environ"])
    script = request["arguments"][0]
    sys.argv[:] = request["arguments"]
    sys.path[:] = [*path[0], *([] if sys.flags.safe_path else [str(Path(script).parent)]), *path[1]]
    _draw_new_seeds()
    reload_authentication()
    end_with_raylet()
    follow_thread_limits()
    return partial(_run, script)


def _run(script: str) -> None:
    runpy.run_path(script, run_name="__main__")


def _default_handler(number: int) -> Any:
    """Return the handler of a signal in a new interpreter."""
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL


def _draw_new_seeds() -> None:
    """Seed all generators at random, as in a new process."""
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.seed()
