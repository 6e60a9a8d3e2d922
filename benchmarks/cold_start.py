"""Time from a command to the first training step, without processes that are already running.

    python benchmarks/cold_start.py [--rounds 3] [--workers 2]

Runs `spatialsweep run` on the digits with one small network and a private Ray instance, and reads the journal. Prints
JSON, for each round and as medians, in seconds:

    to_proposal      from the command to the proposal of the first trial: imports, Ray, study, tracking
    to_first_step    from the proposal to the first training step: controller and workers of the lane, their imports and
                     process group
    cpu              processor time of the command and of all processes below it, until its end
    memory_mb        largest sum of the memory of these processes, pages that they share counted once
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    rounds = [once(arguments.workers) for _ in range(arguments.rounds)]
    medians = {name: round(statistics.median(found[name] for found in rounds), 1) for name in rounds[0]}
    print(json.dumps({"setting": vars(arguments) | {"cpus": os.cpu_count()}, "rounds": rounds, "median": medians}))


def once(workers: int) -> dict[str, float]:
    """Run one command and return its times in seconds."""
    settings = ["trials=1", "training.epochs=3", "search.model=conv_resnet26_small", f"resources.workers={workers}"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "orchestrator", "run", "sweeps/digits.yaml", "--runs-dir", folder]
        started = time.time()
        command += [word for setting in settings for word in ("--set", setting)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            usage = Usage(process.pid)
        assert process.returncode == 0
        proposed = first(Path(folder), "trial_started")["time"]
        report = first(Path(folder), "trial_reported")
    step = report["time"] - report["metrics"]["epoch_time_s"]
    return {
        "to_proposal": round(proposed - started, 1),
        "to_first_step": round(step - proposed, 1),
        "cpu": round(usage.cpu_s, 1),
        "memory_mb": round(usage.memory_mb),
    }


class Usage:
    """Processor time and memory of a process and all below it, read ten times a second until it ends."""

    def __init__(self, pid: int) -> None:
        self.memory_mb = 0.0
        self._spent: dict[tuple[int, float], float] = {}
        self._root = psutil.Process(pid)
        threading.Thread(target=self._follow, daemon=True).start()

    @property
    def cpu_s(self) -> float:
        """Processor seconds of all processes together."""
        return sum(self._spent.values())

    def _follow(self) -> None:
        rounds = 0
        while self._root.is_running() and self._root.status() != psutil.STATUS_ZOMBIE:
            memory = 0
            for process in (self._root, *self._root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    self._spent[process.pid, process.create_time()] = times.user + times.system
                    memory += process.memory_full_info().pss if rounds % 20 == 0 else 0
            self.memory_mb = max(self.memory_mb, memory / 2**20)
            rounds += 1
            time.sleep(0.1)


def first(runs_dir: Path, kind: str) -> dict[str, Any]:
    """Return the first event of a kind in the journal."""
    lines = (runs_dir / "digits" / "journal.jsonl").read_text().splitlines()
    return next(event for event in map(json.loads, lines) if event["event"] == kind)


if __name__ == "__main__":
    main()
