"""Checkpoints of a sweep as MLflow models: linked, loaded in another process, served, registered and deleted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.models import Model
from typer.testing import CliRunner

from orchestrator import load_model
from orchestrator.cli.main import app
from orchestrator.disk_space import no_room
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.server_addresses import embedded_uri
from orchestrator.tracking import stored_checkpoints
from orchestrator.tracking.model_folder import ModelFacts, write_model_folder
from orchestrator.training.checkpoints.checkpoint_file import save_checkpoint
from orchestrator.training.checkpoints.checkpoints import build_network
from tests.support.fake_sweeps import tell_sweep
from tests.support.mlflow_server import free_port, healthy
from tests.support.tracked_sweep import replay

NETWORK = {"name": "conv_resnet26_small", "options": {}, "num_classes": 10, "in_chans": 1, "image_size": 8}
DATA = {"pixel_mean": [0.5], "pixel_std": [0.25], "class_names": list("abcdefghij")}
IMAGES = np.linspace(0, 1, 2 * 64, dtype=np.float32).reshape(2, 1, 8, 8)


class TrackedSweep:
    """Sweep of three trials, two of whose best weights are MLflow models."""

    def __init__(self, runs_dir: Path) -> None:
        finished = TrialStatus.FINISHED
        trials = [(finished, [0.5, 0.8, 0.7]), (finished, [0.6]), (finished, [0.1])]
        self.folder = tell_sweep(runs_dir, "s", trials, tracking={"experiment": "tests"})
        self.uri = embedded_uri(runs_dir)
        self.client = MlflowClient(self.uri)
        for trial, epoch in ((0, 2), (1, 1)):
            self.save(trial, epoch)
            self.write_event("checkpoint_kept", trial)

    def best(self, trial: int) -> Path:
        return self.folder / "trials" / f"trial-{trial:05d}" / "best.pt"

    def save(self, trial: int, epoch: int) -> None:
        self.best(trial).parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(trial)
        metrics = {"val/top1": [0.5, 0.8, 0.7][epoch - 1], "train/loss": 1.0}
        weights = {"state_dict": build_network(NETWORK).state_dict(), "epoch": epoch, "metrics": metrics}
        save_checkpoint(self.best(trial), {"model": NETWORK, "data": DATA, **weights})

    def write_event(self, event: str, trial: int) -> None:
        with Journal(self.folder / "journal.jsonl") as journal:
            getattr(Ledger(journal), event)(trial, str(self.best(trial)))

    def replay(self) -> list[str]:
        """Send all events to MLflow and return the runs of the trials."""
        writer = replay(self.folder / "journal.jsonl", self.uri)
        return [str(writer.run_id(number)) for number in range(3)]

    def models(self) -> list[LoggedModel]:
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        return sorted(self.client.search_logged_models(experiments), key=lambda model: model.name)

    def checkpoints(self, run: str) -> list[str]:
        return [file.path for file in self.client.list_artifacts(run, "checkpoint")]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> TrackedSweep:
    tracked = TrackedSweep(tmp_path_factory.mktemp("runs"))
    tracked.replay()
    return tracked


def model_folder(tracked: TrackedSweep, model: LoggedModel) -> Path:
    return Path(model.artifact_location.removeprefix("file://"))


def test_the_best_weights_are_a_model_linked_to_the_metrics_of_their_epoch(tracked: TrackedSweep) -> None:
    first, second = tracked.models()
    assert (first.name, first.status, first.model_type) == ("s-trial-00000", "READY", "image-classifier")
    assert second.name == "s-trial-00001"
    metrics = {(metric.key, metric.step, metric.value) for metric in first.metrics}
    assert metrics == {("val/top1", 2, 0.8), ("train/loss", 2, 1.0)}
    run = tracked.client.get_run(first.source_run_id)
    assert [(output.model_id, output.step) for output in run.outputs.model_outputs] == [(first.model_id, 2)]
    assert first.params["model"] == "conv_resnet26_small"
    history = tracked.client.get_metric_history(run.info.run_id, "val/top1")
    assert [point.value for point in history] == [0.5, 0.8, 0.7]


def test_a_model_contains_signature_requirements_and_code(tracked: TrackedSweep) -> None:
    folder = model_folder(tracked, tracked.models()[0])
    described = Model.load(str(folder))
    assert described.model_id == tracked.models()[0].model_id
    assert [spec.shape for spec in described.signature.inputs.inputs] == [(-1, 1, 8, 8)]
    assert [spec.shape for spec in described.signature.outputs.inputs] == [(-1, 10)]
    assert described.load_input_example(str(folder)).shape == (1, 1, 8, 8)
    required = (folder / "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in required} == {"mlflow", "numpy", "timm", "torch"}
    assert (folder / "code" / "models" / "__init__.py").exists()


def test_another_process_loads_a_model_with_the_code_it_contains(tracked: TrackedSweep, tmp_path: Path) -> None:
    code = (
        f"import mlflow, torch, sys, numpy as np\nmlflow.set_tracking_uri({tracked.uri!r})\n"
        f"model = mlflow.pytorch.load_model('models:/{tracked.models()[0].model_id}')\nimport models\n"
        "print(models.__file__)\nprint('orchestrator' in sys.modules)\n"
        "np.save('logits.npy', model(torch.from_numpy(np.load('images.npy'))).detach().numpy())"
    )
    np.save(tmp_path / "images.npy", IMAGES)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    where, ours = done.stdout.split()[-2:]
    assert (Path(where).parts[-3:], ours) == (("code", "models", "__init__.py"), "False")
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected(tracked), rtol=1e-4, atol=1e-5)


def expected(tracked: TrackedSweep) -> np.ndarray[Any, Any]:
    """Compute the logits with `load_model`, which reads tensors and plain data only."""
    run = tracked.models()[0].source_run_id
    network = load_model(f"runs:/{run}", tracking_uri=tracked.uri)
    with torch.inference_mode():
        logits: np.ndarray[Any, Any] = network((torch.from_numpy(IMAGES) - 0.5) / 0.25).numpy()
    return logits


@pytest.mark.slow
def test_mlflow_serves_a_model(tracked: TrackedSweep, tmp_path: Path) -> None:
    port = free_port()
    page = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{tracked.models()[0].model_id}"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # it starts uvicorn by name
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracked.uri, "PATH": path, "NO_PROXY": "*"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while not healthy(f"{page}/ping"):
            assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        body = json.dumps({"inputs": IMAGES.tolist()}).encode()
        request = urllib.request.Request(f"{page}/invocations", body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = np.array(json.load(answer)["predictions"])
    finally:
        server.terminate()
        server.wait(60)
    np.testing.assert_allclose(found, expected(tracked), rtol=1e-4, atol=1e-5)


def test_a_replay_from_the_start_creates_no_second_model(tracked: TrackedSweep) -> None:
    before = [model.model_id for model in tracked.models()]
    (tracked.folder / "tracked.json").unlink()
    runs = tracked.replay()
    assert [model.model_id for model in tracked.models()] == before
    assert len(tracked.client.get_run(runs[0]).outputs.model_outputs) == 1


def command(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    return done.output if done.exit_code == 0 else f"{done.exit_code}: {done.exception}"


def test_the_best_trial_is_registered_once_with_an_alias(tracked: TrackedSweep) -> None:
    where = ("--runs-dir", str(tracked.folder.parent))
    found = command("register", "s", "--as", "digits", "--alias", "champion", *where)
    assert "Trial 0 of s is now version 1 of digits, called 'champion'" in found
    assert "mlflow.pytorch.load_model('models:/digits@champion')" in found
    assert "is already version 1" in command("register", "s", "--as", "digits", *where)
    assert "Trial 1 of s is now version 2" in command("register", "s", "--as", "digits", "--trial", "1", *where)
    version = tracked.client.get_model_version_by_alias("digits", "champion")
    assert (str(version.version), version.source) == ("1", tracked.models()[0].artifact_location)
    assert version.run_id == tracked.models()[0].source_run_id


def test_a_trial_that_cannot_be_registered_is_reported(tracked: TrackedSweep) -> None:
    where = ("--runs-dir", str(tracked.folder.parent))
    assert "s has no trial 9" in command("register", "s", "--as", "digits", "--trial", "9", *where)
    assert "no model of this trial" in command("register", "s", "--as", "digits", "--trial", "2", *where)


def test_a_trial_that_was_not_kept_is_registered_from_its_checkpoint(tracked: TrackedSweep) -> None:
    tracked.save(2, 1)
    where = ("--runs-dir", str(tracked.folder.parent))
    assert "Trial 2 of s is now version" in command("register", "s", "--as", "digits", "--trial", "2", *where)


def test_better_weights_replace_a_model_and_dropped_ones_are_deleted(tmp_path: Path) -> None:
    tracked = TrackedSweep(tmp_path)
    run = tracked.replay()[0]
    before = tracked.models()
    tracked.save(0, 3)
    tracked.write_event("checkpoint_kept", 0)
    tracked.write_event("checkpoint_dropped", 1)
    runs = tracked.replay()
    assert runs[0] == run
    (model,) = tracked.models()
    assert model.tags["spatialsweep.epoch"] == "3"
    assert model.model_id not in {known.model_id for known in before}
    assert (tracked.checkpoints(runs[0]), tracked.checkpoints(runs[1])) == (["checkpoint/best.pt"], [])
    command("register", "s", "--as", "digits", "--runs-dir", str(tmp_path))
    tracked.write_event("checkpoint_dropped", 0)
    tracked.replay()
    assert [kept.model_id for kept in tracked.models()] == [model.model_id]


def test_a_deleted_sweep_leaves_only_models_of_the_registry(tmp_path: Path) -> None:
    tracked = TrackedSweep(tmp_path)
    tracked.replay()
    where = ("--runs-dir", str(tmp_path))
    command("register", "s", "--as", "digits", "--trial", "1", *where)
    assert len(tracked.models()) == 2
    command("delete", "s", "--yes", *where)
    assert [model.name for model in tracked.models()] == ["s-trial-00001"]


def test_a_damaged_checkpoint_does_not_block_other_events(tmp_path: Path) -> None:
    tracked = TrackedSweep(tmp_path)
    tracked.best(0).write_bytes(tracked.best(0).read_bytes()[:-50])
    writer = replay_refused(tracked)
    assert "becomes no model" in writer
    assert [model.name for model in tracked.models()] == ["s-trial-00001"]


def test_a_full_disk_delays_a_model_which_is_written_in_the_sweep_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked, places = TrackedSweep(tmp_path), []

    def write(checkpoint: Path, folder: Path) -> ModelFacts:
        places.append(folder)
        if len(places) == 1:
            raise no_room(str(folder))
        return write_model_folder(checkpoint, folder)

    monkeypatch.setattr(stored_checkpoints, "write_model_folder", write)
    tracked.replay()
    assert len(tracked.models()) == 2
    assert len(places) == 3
    assert {folder.parents[1] for folder in places} == {tmp_path / "s" / "scratch"}
    assert not (tmp_path / "s" / "scratch").exists()


def replay_refused(tracked: TrackedSweep) -> str:
    from orchestrator.errors import TrackingError

    with pytest.raises(TrackingError, match="MLflow refused 1 events") as caught:
        tracked.replay()
    return str(caught.value)
