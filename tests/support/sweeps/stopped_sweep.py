"""A sweep of three short trials that a test stops and resumes, by commands of their own processes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient

from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import read_events
from orchestrator.records.lines import content_of
from orchestrator.steering.client import pause_trial
from orchestrator.steering.requests import SteeringError
from tests.support.networks.own_file import HeldFile
from tests.support.sweeps.command_line import run_command
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[3]
EPOCHS, TRIALS = 5, 3
SWEEP = """
name: stops
dataset: {{name: digits}}
model: {{name: "{model}"}}
training: {{epochs: {epochs}, global_batch_size: 64, optimizer: adamw, warmup_epochs: 0}}
search: {{lr: {{type: float, low: 1e-3, high: 1e-2, log: true}}}}
trials: {trials}
trial_scheduler: {{name: none}}
resources: {{workers: 1, lanes: 1}}
"""


class StoppedSweep:
    """A sweep file, its folder and its drivers.

    Args:
        place: Folder for all files.
        model: Name of its network; None takes one that is held.
    """

    def __init__(self, place: Path, model: str | None = None) -> None:
        self.file = place / "stops.yaml"
        self.drivers = 0
        self.runs_dir = place / "runs"
        self.folder = SweepFolder(self.runs_dir / "stops")
        self.network = HeldFile(place, self.folder.journal)
        self.file.write_text(SWEEP.format(model=model or self.network.name, epochs=EPOCHS, trials=TRIALS))

    def start(self, *arguments: str, program: Sequence[str] = ("-m", "orchestrator")) -> subprocess.Popen[bytes]:
        command = [sys.executable, *program, *arguments, "--runs-dir", str(self.runs_dir)]
        self.drivers += 1
        with self.log.open("wb") as log:
            return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    @property
    def log(self) -> Path:
        """Output of the newest driver."""
        return self.file.with_name(f"driver-{self.drivers}.log")

    def call(self, *arguments: str) -> tuple[int, str]:
        """Run a command in this process: a new one would import Ray and torch for seconds."""
        return run_command(*arguments, "--runs-dir", str(self.runs_dir))

    def call_in_new_process(self, *arguments: str) -> tuple[int, str]:
        return self.start(*arguments).wait(240), self.log.read_text()

    def events(self, kind: str) -> list[dict[str, Any]]:
        if not self.folder.journal.exists():
            return []
        return [content_of(event) for event, _ in read_events(self.folder.journal) if event.event == kind]

    def wait_for_epochs(self, count: int) -> None:
        """Wait for a number of epochs, after which nothing trains."""
        wait_for(lambda: len(self.events("trial_reported")) >= count)

    def wait_for_the_stop(self) -> None:
        """Wait until its driver lets no trial begin another epoch, and refuses requests in the round after that."""
        wait_for(lambda: "Stopping after the epochs now running" in self.log.read_text())
        with pytest.raises(SteeringError, match="is ending"):
            pause_trial(self.folder.path, 1)


def states(sweep: StoppedSweep) -> dict[str, int]:
    study = optuna.load_study(study_name="stops", storage=f"sqlite:///{sweep.runs_dir / 'optuna.db'}")
    return Counter(trial.state.name for trial in study.trials)


def run_statuses(sweep: StoppedSweep) -> dict[str, str]:
    client = MlflowClient(f"sqlite:///{sweep.runs_dir / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {run.info.run_name: run.info.status for run in client.search_runs(experiments)}
