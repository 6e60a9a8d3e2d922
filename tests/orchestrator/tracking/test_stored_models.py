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

import mlflow.pytorch
import numpy as np
import pytest
import timm
import torch
from mlflow.entities import LoggedModel
from mlflow.models import Model
from mlflow.utils import environment
from typer.testing import CliRunner

import models
from orchestrator import load_model
from orchestrator.cli.main import app
from orchestrator.disk_space import disk_full_error
from orchestrator.tracking import model_folder, stored_checkpoints
from orchestrator.tracking.model_folder import ModelFacts, write_model_folder
from tests.support.servers.mlflow_server import healthy
from tests.support.servers.ports import free_port
from tests.support.sweeps.stored_models import StoredModels

IMAGES = np.linspace(0, 1, 2 * 64, dtype=np.float32).reshape(2, 1, 8, 8)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredModels:
    stored = StoredModels(tmp_path_factory.mktemp("runs"))
    stored.replay()
    return stored


def fetched(stored: StoredModels, model: LoggedModel) -> Path:
    return Path(model.artifact_location.removeprefix("file://"))


def test_the_best_weights_are_a_model_linked_to_the_metrics_of_their_epoch(stored: StoredModels) -> None:
    first, second = stored.models()
    assert (first.name, first.status, first.model_type) == ("s-trial-00000", "READY", "image-classifier")
    assert second.name == "s-trial-00001"
    metrics = {(metric.key, metric.step, metric.value) for metric in first.metrics}
    assert metrics == {("val/top1", 2, 0.8), ("train/loss", 2, 1.0)}
    run = stored.client.get_run(first.source_run_id)
    assert [(output.model_id, output.step) for output in run.outputs.model_outputs] == [(first.model_id, 2)]
    assert first.params["model"] == "conv_resnet26_small"
    history = stored.client.get_metric_history(run.info.run_id, "val/top1")
    assert [point.value for point in history] == [0.5, 0.8, 0.7]


def test_a_model_says_what_it_takes_and_needs_and_brings_its_code(stored: StoredModels) -> None:
    folder = fetched(stored, stored.models()[0])
    described = Model.load(str(folder))
    assert described.model_id == stored.models()[0].model_id
    assert [spec.shape for spec in described.signature.inputs.inputs] == [(-1, 1, 8, 8)]
    assert [spec.shape for spec in described.signature.outputs.inputs] == [(-1, 10)]
    assert described.load_input_example(str(folder)).shape == (1, 1, 8, 8)
    required = (folder / "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in required} == {"mlflow", "numpy", "timm", "torch"}
    assert (folder / "code" / "models" / "__init__.py").exists()


def test_a_model_is_stored_where_mlflow_has_no_comparison_of_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "warn_dependency_requirement_mismatches"
    theirs = vars(environment)[name]
    with model_folder._requirements_of_this_process():
        assert vars(environment)[name] is not theirs
    assert vars(environment)[name] is theirs
    monkeypatch.delattr(environment, name)
    with model_folder._requirements_of_this_process():
        assert name not in vars(environment)
    assert name not in vars(environment)


def test_another_process_loads_it_with_the_code_it_brought(stored: StoredModels, tmp_path: Path) -> None:
    code = (
        f"import mlflow, torch, sys, numpy as np\nmlflow.set_tracking_uri({stored.uri!r})\n"
        f"model = mlflow.pytorch.load_model('models:/{stored.models()[0].model_id}')\nimport models\n"
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
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected(stored), rtol=1e-4, atol=1e-5)


def expected(stored: StoredModels) -> np.ndarray[Any, Any]:
    """Compute the logits with `load_model`, which reads tensors and plain data only."""
    run = stored.models()[0].source_run_id
    network = load_model(f"runs:/{run}", tracking_uri=stored.uri)
    with torch.inference_mode():
        logits: np.ndarray[Any, Any] = network((torch.from_numpy(IMAGES) - 0.5) / 0.25).numpy()
    return logits


@pytest.mark.slow
def test_mlflow_serves_it(stored: StoredModels, tmp_path: Path) -> None:
    port = free_port()
    page = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{stored.models()[0].model_id}"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # it starts uvicorn by name
    environment = {**os.environ, "MLFLOW_TRACKING_URI": stored.uri, "PATH": path, "NO_PROXY": "*"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 240
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
    np.testing.assert_allclose(found, expected(stored), rtol=1e-4, atol=1e-5)


def test_a_replay_from_the_start_makes_no_second_model(stored: StoredModels) -> None:
    before = [model.model_id for model in stored.models()]
    (stored.folder / "tracked.json").unlink()
    runs = stored.replay()
    assert [model.model_id for model in stored.models()] == before
    assert len(stored.client.get_run(runs[0]).outputs.model_outputs) == 1


def command(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    return done.output if done.exit_code == 0 else f"{done.exit_code}: {done.exception}"


def test_the_best_is_registered_once_under_a_name_with_an_alias(stored: StoredModels) -> None:
    where = ("--runs-dir", str(stored.folder.parent))
    found = command("register", "s", "--as", "digits", "--alias", "champion", *where)
    assert "Trial 0 of s is now version 1 of digits, called 'champion'" in found
    loads = "mlflow.pytorch.load_model('models:/digits@champion'), where MLFLOW_TRACKING_URI is sqlite:///"
    assert f"{loads}{stored.folder.parent}/mlflow.db" in found
    assert "is already version 1" in command("register", "s", "--as", "digits", *where)
    assert "Trial 1 of s is now version 2" in command("register", "s", "--as", "digits", "--trial", "1", *where)
    version = stored.client.get_model_version_by_alias("digits", "champion")
    assert (str(version.version), version.source) == ("1", stored.models()[0].artifact_location)
    assert version.run_id == stored.models()[0].source_run_id


def test_what_cannot_be_registered_is_told(stored: StoredModels) -> None:
    where = ("--runs-dir", str(stored.folder.parent))
    assert "s has no trial 9" in command("register", "s", "--as", "digits", "--trial", "9", *where)
    assert "no model of this trial" in command("register", "s", "--as", "digits", "--trial", "2", *where)


def test_a_trial_that_was_not_kept_is_registered_from_its_checkpoint(stored: StoredModels) -> None:
    stored.save(2, 1)
    where = ("--runs-dir", str(stored.folder.parent))
    assert "Trial 2 of s is now version" in command("register", "s", "--as", "digits", "--trial", "2", *where)


def test_better_weights_take_the_place_of_a_model_and_what_is_dropped_goes(tmp_path: Path) -> None:
    stored = StoredModels(tmp_path)
    run = stored.replay()[0]
    before = stored.models()
    stored.save(0, 3)
    stored.record("checkpoint_kept", 0)
    stored.record("checkpoint_dropped", 1)
    runs = stored.replay()
    assert runs[0] == run
    (model,) = stored.models()
    assert model.tags["spatialsweep.epoch"] == "3"
    assert model.model_id not in {known.model_id for known in before}
    assert (stored.checkpoints(runs[0]), stored.checkpoints(runs[1])) == (["checkpoint/best.pt"], [])
    command("register", "s", "--as", "digits", "--runs-dir", str(tmp_path))
    stored.record("checkpoint_dropped", 0)
    stored.replay()
    assert [kept.model_id for kept in stored.models()] == [model.model_id]


def test_a_deleted_sweep_leaves_only_models_of_the_registry(tmp_path: Path) -> None:
    stored = StoredModels(tmp_path)
    stored.replay()
    where = ("--runs-dir", str(tmp_path))
    command("register", "s", "--as", "digits", "--trial", "1", *where)
    assert len(stored.models()) == 2
    command("delete", "s", "--yes", *where)
    assert [model.name for model in stored.models()] == ["s-trial-00001"]


def test_a_damaged_checkpoint_holds_up_nothing(tmp_path: Path) -> None:
    stored = StoredModels(tmp_path)
    stored.best(0).write_bytes(stored.best(0).read_bytes()[:-50])
    writer = replay_refused(stored)
    assert "becomes no model" in writer
    assert [model.name for model in stored.models()] == ["s-trial-00001"]


def test_a_full_disk_delays_a_model_which_is_written_in_the_sweep_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, places = StoredModels(tmp_path), []

    def write(checkpoint: Path, folder: Path) -> ModelFacts:
        places.append(folder)
        if len(places) == 1:
            raise disk_full_error(str(folder))
        return write_model_folder(checkpoint, folder)

    monkeypatch.setattr(stored_checkpoints, "write_model_folder", write)
    stored.replay()
    assert len(stored.models()) == 2
    assert len(places) == 3
    assert {folder.parents[1] for folder in places} == {tmp_path / "s" / "scratch"}
    assert not (tmp_path / "s" / "scratch").exists()


def replay_refused(stored: StoredModels) -> str:
    from orchestrator.errors import TrackingError

    with pytest.raises(TrackingError, match="MLflow refused 1 events") as caught:
        stored.replay()
    return str(caught.value)


def test_weights_of_another_program_are_registered_once_and_predict(stored: StoredModels, tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = models.create_model("conv_resnet26_small", num_classes=10, in_chans=1).eval()
    weights = tmp_path / "published.pth"
    torch.save({"net": {f"module.{key}": value for key, value in network.state_dict().items()}, "epoch": 95}, weights)
    where = ["--model", "conv_resnet26_small", "--runs-dir", str(stored.folder.parent)]
    first = command("register", str(weights), "--as", "published", "--alias", "authors", *where)
    assert "is now version 1 of published, called 'authors'" in first
    assert "is already version 1 of published" in command("register", str(weights), "--as", "published", *where)
    version = stored.client.get_model_version_by_alias("published", "authors")
    loaded = mlflow.pytorch.load_model(version.source)
    cfg = timm.get_pretrained_cfg("conv_resnet26_small")
    mean, std = sum(cfg.mean) / 3, sum(cfg.std) / 3
    images = torch.tensor(IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), network((images - mean) / std))
