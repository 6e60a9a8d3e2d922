"""Cost of the checks within an epoch: steps of a trial with and without an observer, taking turns.

    python benchmarks/epoch_checks.py [--workers 2] [--epochs 20] [--seconds 2]

Trains a small network on the digits on one or several CPU workers (gloo), in one process group. Epochs with the checks
and without them take turns, so that other load on the machine falls on both. Prints JSON: the median time of a step,
the number of checks, and the median ratio of neighbouring epochs with its quartiles, by the clock and by the CPU time
of the first worker.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing

from orchestrator.config import DatasetConfig, ModelConfig, ObjectiveConfig, TrainingConfig, TrialConfig
from orchestrator.data import open_dataset, prepare_dataset
from orchestrator.records.folder.live_progress import EpochProgress
from orchestrator.training.checkpoints.checkpoints import TrialCheckpoints
from orchestrator.training.images.device_images import DeviceImages
from orchestrator.training.images.placement import place_dataset
from orchestrator.training.trial import Trial
from orchestrator.training.watch import epoch_watch
from orchestrator.training.workers import Workers


class Observer:
    """Observer that counts the checks."""

    def __init__(self) -> None:
        self.checks = 0

    def wants_leave(self, left_s: float) -> bool:  # noqa: ARG002
        """Count a check."""
        self.checks += 1
        return False

    def show(self, progress: EpochProgress) -> None:
        """Drop the progress, as a lane does while a message is on its way."""


def make_trial(data: DeviceImages, workers: Workers, folder: Path, observer: Observer | None) -> Trial:
    training = TrainingConfig(epochs=1000, global_batch_size=16)
    config = TrialConfig(number=0, model=ModelConfig(name="conv_resnet26_small"), training=training, seed=0)
    return Trial(config, ObjectiveConfig(), data, workers, TrialCheckpoints(folder), observer=observer)


def epoch_s(trial: Trial) -> tuple[float, float]:
    """Train the steps of an epoch; return the seconds by the clock, and those of this process's CPU."""
    trial.step = 0
    trial.workers.sum(torch.zeros(1))
    started, cpu = time.perf_counter(), time.process_time()
    trial._train_epoch(1)
    return time.perf_counter() - started, time.process_time() - cpu


def measure(rank: int, workers: int, epochs: int, interval_s: float, folder: str) -> None:
    """Measure as one of several workers; the first one prints the result."""
    torch.set_num_threads(1)
    place = Path(folder)
    if workers > 1:
        dist.init_process_group("gloo", f"file://{place / 'meeting'}", rank=rank, world_size=workers)
    epoch_watch.CHECK_INTERVAL_S = interval_s
    dataset = open_dataset(prepare_dataset("digits", place / f"data-{rank}"))
    group = Workers(rank, workers)
    data = place_dataset(dataset, group.device, DatasetConfig(name="digits"))
    observer = Observer()
    watched = make_trial(data, group, place / "watched", observer)
    plain = make_trial(data, group, place / "plain", None)
    for each in (watched, plain):
        epoch_s(each)
    observer.checks, pairs = 0, []
    for turn in range(epochs):
        order = (watched, plain) if turn % 2 else (plain, watched)
        taken = {each: epoch_s(each) for each in order}
        pairs.append((taken[watched], taken[plain]))
    if rank == 0:
        setting = {"workers": workers, "epochs": epochs, "interval_s": interval_s, "cpus": os.cpu_count()}
        ratios = {name: ratio([(one[at], two[at]) for one, two in pairs]) for at, name in enumerate(("clock", "cpu"))}
        step_ms = 1000 / watched.steps_per_epoch * statistics.median(plain_s for _, (plain_s, _) in pairs)
        print(json.dumps({"setting": setting, "step_ms": round(step_ms, 2), "checks": observer.checks, **ratios}))
    if workers > 1:
        dist.destroy_process_group()


def ratio(pairs: list[tuple[float, float]]) -> list[float]:
    """Return the median ratio of pairs with its quartiles."""
    low, middle, high = statistics.quantiles([watched / plain for watched, plain in pairs], n=4)
    return [round(value, 4) for value in (middle, low, high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=epoch_watch.CHECK_INTERVAL_S)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options = (arguments.workers, arguments.epochs, arguments.seconds, folder)
        if arguments.workers == 1:
            measure(0, *options)
        else:
            multiprocessing.start_processes(measure, options, nprocs=arguments.workers, start_method="spawn")


if __name__ == "__main__":
    main()
