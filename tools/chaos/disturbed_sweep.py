"""Sweep into which faults are injected: its driver, its journal, and the epochs that it saves."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 150.0


class DisturbedSweep:
    """Sweep in a process of its own.

    Args:
        place: Parent folder of its file and its runs.
        name: Name of the sweep.
        address: Address of the cluster.
    """

    def __init__(self, place: Path, name: str, address: str) -> None:
        self.name = name
        self.file = place / f"{name}.json"
        self.runs_dir = place / "runs"
        self.temporary = place / f"{name}-tmp"
        self.folder = self.runs_dir / name
        self._address = address
        self._before = 0  # events when the present driver was started
        self.driver: subprocess.Popen[bytes]

    def write(self, *, trials: int, epochs: int, workers: int, max_failures: int, **more: Any) -> None:
        """Write the sweep's file; without more settings all trials are equal, so that it does not matter which fail."""
        self.temporary.mkdir(parents=True)
        training = {"epochs": epochs, "global_batch_size": 32, "optimizer": "adamw", "lr": 0.003}
        content = {
            "name": self.name,
            "dataset": {"name": "digits"},
            "model": {"name": "conv_resnet26_small"},
            "training": training,
            "trials": trials,
            "trial_scheduler": {"name": "none"},
            "resources": {"workers": workers, "lanes": 1, "max_failures": max_failures},
            **more,
        }
        self.file.write_text(json.dumps(content))  # which is YAML

    def start(self, *command: str) -> None:
        """Start a driver, the first or one that replaces another."""
        self._before = len(self.events())
        options = ["--address", self._address, "--runs-dir", str(self.runs_dir)]
        self.driver = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *command, *options],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(self.temporary)},
            stdout=self.log.open("ab"),
            stderr=subprocess.STDOUT,
        )

    def counts(self) -> Counter[str]:
        """Return the number of events in the journal by kind."""
        return Counter(event["event"] for event in self.events())

    def events(self) -> list[dict[str, Any]]:
        """Return the events of the journal; none before it exists."""
        from orchestrator.records.journal import read_events
        from orchestrator.records.lines import content_of

        journal = self.folder / "journal.jsonl"
        return [content_of(event) for event, _ in read_events(journal)] if journal.exists() else []

    def next_report_s(self, moment_s: float) -> float | None:
        """Return the time of the first report after a moment, both in seconds since the epoch; None without one."""
        times = (event["time"] for event in self.events() if event["event"] == "trial_reported")
        return next((time_s for time_s in times if time_s > moment_s), None)

    def ends(self) -> tuple[dict[int, str], set[int]]:
        """Return the last status of each trial, and the trials that began again after they had finished."""
        last_end: dict[int, str] = {}
        again = set()
        for event in self.events():
            number = event.get("trial", -1)
            if event["event"] == "trial_ended":
                last_end[number] = event["status"]
            elif event["event"] in ("trial_started", "trial_resumed") and last_end.get(number) == "finished":
                again.add(number)
        return last_end, again

    def files_left(self) -> list[str]:
        """Return files of the sweep's folder that should have been removed."""
        partial = [*self.folder.glob("trials/*/*.partial*"), *self.folder.glob("trials/*/*.tmp*")]
        scratch = [self.folder / "scratch"] if (self.folder / "scratch").exists() else []
        return [str(path) for path in [*partial, *scratch]]

    @property
    def log(self) -> Path:
        """Path of the output of its drivers."""
        return self.file.with_suffix(".log")

    def seconds_per_epoch(self) -> float:
        """Return the median duration of an epoch in seconds, as reported by the trials."""
        times = [event["metrics"].get("epoch_time_s") for event in self.events() if event["event"] == "trial_reported"]
        return statistics.median([seconds for seconds in times if seconds] or [1.0])

    @property
    def is_over(self) -> bool:
        """True when the sweep or its driver has ended."""
        ended = any(event["event"] == "sweep_ended" for event in self.events()[self._before :])
        return ended or self.driver.poll() is not None

    def has_reported(self) -> bool:
        """Wait for the first report; return False when the sweep is over before."""
        until(lambda: self.counts()["trial_reported"] > 0 or self.is_over)
        return not self.is_over

    def finishes(self, patience_s: float = PATIENCE_S * 2) -> bool:
        """Wait for the end of the driver; return whether it succeeded."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.driver.wait(patience_s)
        if self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()
        return self.driver.returncode == 0


class Saves:
    """Epochs of each trial in the order in which they were saved; follows the checkpoints while a sweep runs.

    Args:
        folder: Parent of the trials' folders.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._epochs: dict[str, list[int]] = {}
        self.last_s: float | None = None  # when one was saved, by the clock

    def __enter__(self) -> Saves:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def repeated(self) -> int:
        """Return the number of epochs that were saved a second time."""
        return sum(len(epochs) - len(set(epochs)) for epochs in self._epochs.values())

    def from_the_start(self) -> set[int]:
        """Return the trials that saved their first epoch a second time."""
        return {int(name.rpartition("-")[2]) for name, epochs in self._epochs.items() if epochs.count(1) > 1}

    def _follow(self) -> None:
        from orchestrator.errors import CheckpointError
        from orchestrator.training.checkpoints.checkpoint_file import read_checkpoint

        seen: dict[Path, int] = {}
        while not self._over.wait(0.02):
            for path in self._folder.glob("*/last.pt"):
                with contextlib.suppress(OSError, CheckpointError):  # replaced or removed this moment
                    written = path.stat().st_mtime_ns
                    if seen.get(path) != written:
                        epoch = read_checkpoint(path, "cpu")["epoch"]
                        self.last_s, seen[path] = time.time(), written
                        self._epochs.setdefault(path.parent.name, []).append(epoch)


def until(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> bool:
    """Wait for a condition; return whether it was met in time."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def sequences(arguments: argparse.Namespace, times: int) -> list[list[str]]:
    """Return the sequences of faults: one for each kind, or one with all kinds in random order."""
    each = [[kind] * times for kind in arguments.kinds]
    together = [kind for sequence in each for kind in sequence]
    random.Random(arguments.seed).shuffle(together)
    return [together] if arguments.together else each
