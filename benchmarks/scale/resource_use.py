"""Resource use of the processes of a benchmark: processor, memory and traffic, by kind of process.

The benchmark runs in namespaces of its own, so that all processes in them, daemons included, and all traffic are its
own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_MARK = "OWN_NETWORK"
# The kind of a process is that of the first pattern that its command line matches.
_KINDS = (
    (r"^ray::LaneHub", "hub"),
    (r"^ray::(\w+\.)?(TrialClient|ResourceTrainable|ImplicitFunc)", "trial client"),
    (r"^ray::SimulatedLane", "lane"),
    (r"^ray::LaneController", "Train controller"),
    (r"^ray::(\w+)", "ray worker: {}"),
    (r"gcs_server", "GCS"),
    (r"raylet/raylet ", "raylet"),
    (r"(dashboard/agent|DashboardAgent|runtime_env/agent|RuntimeEnvAgent|sleep infinity)", "agents"),
    (r"^postgres: postgres (\w+) ", "PostgreSQL: {}"),
    (r"postgres", "PostgreSQL"),
    (r"(mlflow|uvicorn)", "MLflow server"),
)


def require_own_network() -> None:
    """Run the program again in network and process namespaces of its own, which end with it; needs root."""
    if os.environ.get(_MARK):
        return
    os.environ[_MARK] = "1"
    apart = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    script = 'ip link set lo up; "$@"; exit $?'  # without exec, because the first process must reap all others
    os.execvp(apart[0], [*apart, "sh", "-c", script, "sh", sys.executable, *sys.argv])


@dataclass(frozen=True)
class Use:
    """Resource use of all processes of a kind until a moment.

    Args:
        count: Number of live processes.
        cpu_s: Processor time in seconds, including that of ended processes.
        memory_mb: Memory of live processes in MB; shared memory is divided among them.
    """

    count: int
    cpu_s: float
    memory_mb: float


@dataclass(frozen=True)
class Snapshot:
    """Resource use of all kinds at a moment."""

    time_s: float
    kinds: Mapping[str, Use]
    traffic_bytes: int

    @property
    def memory_mb(self) -> dict[str, tuple[int, float]]:
        """Number of processes of each kind, and their memory in MB."""
        return {kind: (use.count, use.memory_mb) for kind, use in sorted(self.kinds.items()) if use.count}

    def cpu_since(self, before: Snapshot) -> dict[str, float]:
        """Return the processor seconds of each kind in between."""
        return {
            kind: round(use.cpu_s - (before.kinds[kind].cpu_s if kind in before.kinds else 0.0), 2)
            for kind, use in sorted(self.kinds.items())
        }


class Watch:
    """Periodic measurement of the processes, so that ended ones are counted; its own work is left out."""

    def __init__(self) -> None:
        self._cpu_s: dict[tuple[int, float], tuple[str, float]] = {}
        self._own_s = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def running(self, every_s: float = 5.0) -> Iterator[None]:
        """Measure regularly while the context is open."""
        over = threading.Event()

        def measure() -> None:
            while not over.wait(every_s):
                self.snapshot(memory=False)

        thread = threading.Thread(target=measure, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def snapshot(self, *, memory: bool = True) -> Snapshot:
        """Return the resource use until now."""
        with self._lock:
            began = time.thread_time()
            counts: Counter[str] = Counter()
            memory_mb: dict[str, float] = defaultdict(float)
            for process in psutil.process_iter():
                try:
                    kind, times = kind_of(process), process.cpu_times()
                    self._cpu_s[process.pid, process.create_time()] = (kind, times.user + times.system)
                    counts[kind] += 1
                    memory_mb[kind] += process.memory_full_info().pss / 2**20 if memory else 0.0
                except psutil.Error:
                    continue  # it has ended meanwhile
            cpu_s: dict[str, float] = defaultdict(float)
            for kind, seconds in self._cpu_s.values():
                cpu_s[kind] += seconds
            self._own_s += time.thread_time() - began
            cpu_s["driver"] -= self._own_s
        kinds = {kind: Use(counts[kind], spent, round(memory_mb[kind], 1)) for kind, spent in cpu_s.items()}
        return Snapshot(time.time(), kinds, _loopback_bytes())

    def traffic(self) -> dict[str, int]:
        """Return the bytes sent from one kind of process to another over the TCP connections that are open now."""
        began = time.thread_time()
        found = _traffic()
        with self._lock:
            self._own_s += time.thread_time() - began
        return found


def own_process(title: str) -> psutil.Process:
    """Return the child process whose command line begins with a title."""
    children = psutil.Process().children(recursive=True)
    return next(child for child in children if " ".join(child.cmdline()).startswith(title))


def kind_of(process: psutil.Process) -> str:
    """Return the kind of a process."""
    if process.pid == os.getpid():
        return "driver"
    command = " ".join(process.cmdline())
    for pattern, name in _KINDS:
        found = re.search(pattern, command)
        if found:
            return name.format(*found.groups()[-1:])
    return "other"


def _traffic() -> dict[str, int]:
    owners: dict[str, str] = {}
    sent: list[tuple[str, str, str, int]] = []
    kinds = {process.pid: kind_of(process) for process in psutil.process_iter()}
    listing = subprocess.run(["ss", "-tinpHO"], capture_output=True, text=True, check=True).stdout
    for line in listing.splitlines():
        fields = line.split()
        owner = re.search(r"pid=(\d+)", line)
        amount = re.search(r"bytes_sent:(\d+)", line)
        here, there = _plain(fields[3]), _plain(fields[4])
        kind = kinds.get(int(owner[1]), "other") if owner else "other"
        owners[f"{here} {there}"] = kind
        sent.append((kind, there, here, int(amount[1]) if amount else 0))
    found: Counter[str] = Counter()
    for kind, there, here, amount_bytes in sent:
        found[f"{kind} -> {owners.get(f'{there} {here}', 'other')}"] += amount_bytes
    return dict(found)


def _plain(address: str) -> str:
    return address.replace("[::ffff:", "").replace("]", "")


def _loopback_bytes() -> int:
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[0])
    return 0


class Requests:
    """Counter of this process's requests to databases and HTTP servers."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def listen(self) -> None:
        """Count from now on."""
        import requests.adapters
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        event.listen(Engine, "before_cursor_execute", lambda *_: self._add("database statements"))
        event.listen(Engine, "commit", lambda *_: self._add("database commits"))
        send = requests.adapters.HTTPAdapter.send

        def counted(adapter: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            answer = send(adapter, request, *args, **kwargs)
            body = request.body if isinstance(request.body, (bytes, str)) else b""
            self._add("MLflow requests")
            self._add(f"MLflow requests: {request.method} {request.path_url.split('?')[0].rpartition('2.0/')[2]}")
            self._add("MLflow bytes", len(body) + len(answer.content))
            return answer

        requests.adapters.HTTPAdapter.send = counted  # type: ignore[method-assign]

    def _add(self, what: str, amount: int = 1) -> None:
        self.counts[what] += amount
