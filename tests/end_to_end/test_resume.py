"""Sweeps that stop in the middle and go on: by Ctrl-C, by `kill -9`, without Ray, and with something changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from mlflow import MlflowClient

from orchestrator.records.events import content_of
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import read_events
from tests.support.journal_events import rewrite

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "orchestrator"]
EPOCHS, TRIALS = 5, 3
RAYS_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # which look for a lost cluster for a minute
SWEEP = f"""
name: stops
dataset: {{name: digits}}
model: {{name: conv_resnet26_small}}
training: {{epochs: {EPOCHS}, global_batch_size: 64, optimizer: adamw, warmup_epochs: 0}}
search: {{lr: {{type: float, low: 1e-3, high: 1e-2, log: true}}}}
trials: {TRIALS}
trial_scheduler: {{name: none}}
resources: {{lanes: 1}}
"""


def wait_for(condition: Callable[[], Any], timeout_s: float = 150) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


class Sweep:
    """A sweep file, its folder and its drivers."""

    def __init__(self, place: Path) -> None:
        self.file = place / "stops.yaml"
        self.file.write_text(SWEEP)
        self.runs_dir = place / "runs"
        self.folder = SweepFolder(self.runs_dir / "stops")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [*COMMAND, *arguments, "--runs-dir", str(self.runs_dir)]
        return subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def call(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=240)
        return process.returncode, output

    def events(self, kind: str) -> list[dict[str, Any]]:
        if not self.folder.journal.exists():
            return []
        return [content_of(event) for event, _ in read_events(self.folder.journal) if event.event == kind]

    def wait_for_epochs(self, count: int) -> None:
        wait_for(lambda: len(self.events("trial_reported")) >= count)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_stopped_again_and_again_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    first = sweep.start("run", str(sweep.file))
    sweep.wait_for_epochs(EPOCHS + 1)
    assert sweep.folder.is_driven
    family = psutil.Process(first.pid).children(recursive=True)
    assert any("RayTrainWorker" in " ".join(child.cmdline()) for child in family)
    os.killpg(first.pid, signal.SIGINT)  # a terminal sends it to the whole foreground group
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 130, output
    assert "Stopping after the epochs now running" in output
    assert "stops: interrupted" in output
    assert "resume stops --runs-dir" in output
    assert "Traceback" not in output
    assert (sweep.folder.path / "trials.parquet").exists()
    assert not (sweep.folder.path / "scratch").exists()
    assert states(sweep) == {"COMPLETE": 1, "WAITING": 1}
    assert run_statuses(sweep) == {"stops": "KILLED", "stops/trial-00000": "FINISHED", "stops/trial-00001": "KILLED"}
    assert_all_end(family, within_s=30)

    second = sweep.start("resume", "stops")
    sweep.wait_for_epochs(2 * EPOCHS + 1)
    orphans = psutil.Process(second.pid).children(recursive=True)
    agents = [child for child in orphans if child.cmdline()[0].startswith(RAYS_AGENTS)]
    second.kill()
    second.communicate(timeout=30)
    assert_all_end([child for child in orphans if child not in agents], within_s=60)
    assert not sweep.folder.is_driven

    third = sweep.start("resume", "stops")
    sweep.wait_for_epochs(2 * EPOCHS + 2)
    family = psutil.Process(third.pid).children(recursive=True)
    (raylet,) = [child for child in family if child.name() == "raylet"]
    raylet.kill()
    output, _ = third.communicate(timeout=120)
    assert third.returncode == 1, output
    assert f"Ray has ended under this sweep: its raylet on this machine, process {raylet.pid}, is gone" in output
    assert f"What is done is kept; go on with `spatialsweep resume stops --runs-dir {sweep.runs_dir}`" in output
    assert states(sweep) == {"COMPLETE": 2, "WAITING": 1}
    assert run_statuses(sweep)["stops"] == "FAILED"
    assert_all_end(family, within_s=30)

    last = sweep.start("resume", "stops")
    wait_for(lambda: len(finished(sweep)) == TRIALS)
    (raylet,) = [child for child in psutil.Process(last.pid).children(recursive=True) if child.name() == "raylet"]
    raylet.kill()  # when there is nothing left that could be lost
    output, _ = last.communicate(timeout=120)
    assert last.returncode == 0, output
    assert f"{TRIALS} trials, 2 of them done before" in output
    assert "stops: finished" in output
    reported = Counter((event["trial"], event["epoch"]) for event in sweep.events("trial_reported"))
    assert reported == {(trial, epoch): 1 for trial in range(TRIALS) for epoch in range(1, EPOCHS + 1)}
    assert [event["trial"] for event in sweep.events("trial_started")] == [0, 1, 2]
    assert {event["trial"] for event in sweep.events("trial_resumed")} == {1, 2}
    assert states(sweep) == {"COMPLETE": TRIALS}
    assert set(run_statuses(sweep).values()) == {"FINISHED"}
    assert len(run_statuses(sweep)) == 1 + TRIALS

    again, output = sweep.call("resume", "stops")
    assert (again, "all 3 trials are done" in output) == (0, True), output
    assert len(sweep.events("trial_started")) == TRIALS
    assert_all_end(agents, within_s=60)


def assert_all_end(family: list[psutil.Process], *, within_s: float) -> None:
    _, alive = psutil.wait_procs(family, timeout=within_s)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


def finished(sweep: Sweep) -> set[int]:
    return {event["trial"] for event in sweep.events("trial_ended") if event["status"] == "finished"}


def states(sweep: Sweep) -> dict[str, int]:
    study = optuna.load_study(study_name="stops", storage=f"sqlite:///{sweep.runs_dir / 'optuna.db'}")
    return Counter(trial.state.name for trial in study.trials)


def run_statuses(sweep: Sweep) -> dict[str, str]:
    client = MlflowClient(f"sqlite:///{sweep.runs_dir / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {run.info.run_name: run.info.status for run in client.search_runs(experiments)}


def test_names_are_taken_once_and_known_ones_are_offered(begun: Sweep) -> None:
    code, output = begun.call("run", str(begun.file))
    assert code == 2
    assert "sweep 'stops' exists already" in output
    assert "`spatialsweep resume stops`" in output
    code, output = begun.call("resume", "stop")
    assert code == 2
    assert "Did you mean 'stops'?" in output
    assert "Traceback" not in output


def test_two_drivers_do_not_work_on_one_sweep(begun: Sweep) -> None:
    with begun.folder.driven():
        code, output = begun.call("resume", "stops")
    assert code == 2
    assert f"sweep 'stops' is being run by process {os.getpid()}" in output


def test_what_mlflow_missed_is_sent_later(begun: Sweep) -> None:
    code, output = begun.call("sync", "stops")
    assert code == 0, output
    assert "stops: 1 events sent to sqlite:///" in output
    assert run_statuses(begun) == {"stops": "RUNNING"}
    code, output = begun.call("sync", "stops")
    assert (code, "stops: 0 events sent" in output) == (0, True), output


def test_a_changed_sweep_is_not_resumed_and_the_changes_are_listed(begun: Sweep) -> None:
    code, output = begun.call("run", str(begun.file), "--resume", "--set", "search.lr.high=0.02", "--set", "seed=7")
    assert code == 2
    assert "search.lr.high: was 0.01, is 0.02" in output
    assert "seed: was 0, is 7" in output
    assert "search space: was" in output
    assert "--allow-changed" in output
    assert "code: was" not in output


def test_changed_code_and_data_are_noticed(begun: Sweep) -> None:
    changed = {"code": "0123", "dataset content": "4567"}
    rewrite(begun.folder.journal, lambda first: first.update(identity={**first["identity"], **changed}))
    code, output = begun.call("resume", "stops")
    assert code == 2
    assert "code: was 0123, is" in output
    assert "dataset content: was 4567, is" in output


@pytest.fixture
def begun(tmp_path: Path) -> Sweep:
    """A sweep whose driver died before its first trial."""
    from orchestrator.config import load_sweep
    from orchestrator.data import locate_dataset
    from orchestrator.records.journal import Journal
    from orchestrator.records.ledger import Ledger
    from orchestrator.sweep.compatibility import identity

    sweep = Sweep(tmp_path)
    config = load_sweep(sweep.file, [f"runs_dir={sweep.runs_dir}"])
    content = config.model_dump(mode="json")
    with Journal(sweep.folder.journal) as journal:
        located = locate_dataset("digits", None, sweep.runs_dir / "datasets")
        Ledger(journal).sweep_started("stops", content, {}, identity(config, located))
    return sweep
