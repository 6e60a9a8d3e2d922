"""Runs, parameters, metrics, statuses and checkpoints in an MLflow database."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from orchestrator import load_model
from orchestrator.errors import CheckpointError, TrackingError
from orchestrator.records.journal import Journal, read_events
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.server_addresses import embedded_uri
from orchestrator.tracking.event_recorder import RUN_STATUS
from orchestrator.tracking.mlflow_runs import fetch_checkpoint
from orchestrator.tracking.mlflow_writer import MlflowWriter
from orchestrator.training.checkpoints.checkpoint_file import save_checkpoint
from orchestrator.training.checkpoints.checkpoints import build_network
from tests.support.servers.ports import free_port
from tests.support.sweeps.tracked_sweep import DATASET, REASON, replay, tell


def runs_of(uri: str, sweep_run: str) -> list[Run]:
    """Return the runs of the trials of a sweep, by number."""
    client = MlflowClient(uri)
    experiment = client.get_run(sweep_run).info.experiment_id
    found = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{sweep_run}'")
    return sorted(found, key=lambda run: int(run.data.tags["spatialsweep.optuna_trial"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs with a space")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    """Create a real checkpoint of an untrained network."""
    model = {"name": "conv_resnet26_small", "options": {}, "num_classes": 10, "in_chans": 1, "image_size": 8}
    facts = {"pixel_mean": [0.5], "pixel_std": [0.25], "class_names": list("0123456789")}
    path = folder / "s-001" / "trials" / "trial-00000" / "best.pt"
    save_checkpoint(path, {"model": model, "state_dict": build_network(model).state_dict(), "data": facts})
    return path


@pytest.fixture(scope="module")
def journal(folder: Path, checkpoint: Path) -> Path:
    tell(folder / "s-001" / "journal.jsonl", checkpoint)
    return folder / "s-001" / "journal.jsonl"


@pytest.fixture(scope="module")
def writer(folder: Path, journal: Path) -> MlflowWriter:
    """Send the journal to a database and return the writer."""
    return replay(journal, embedded_uri(folder))


def test_a_sweep_is_a_parent_run_with_its_settings_and_its_outcome(writer: MlflowWriter) -> None:
    assert writer.sweep_run_id is not None
    run = MlflowClient(writer.tracking_uri).get_run(writer.sweep_run_id)
    assert (run.info.run_name, run.info.status) == ("s-001", "KILLED")
    assert run.data.params["dataset.name"] == "digits"
    assert run.data.params["search.model.choices"] == '["a", "b"]'
    assert run.data.metrics == {"trials_finished": 1.0, "best_trial": 0.0, "best_value": 0.8}
    expected = {"git.revision": "abc", "spatialsweep.kind": "sweep", "spatialsweep.best_value": "0.8"}
    assert expected.items() <= run.data.tags.items()
    known = {"spatialsweep.seed": "0", "spatialsweep.search_space": "f" * 16}
    assert known.items() <= run.data.tags.items()
    for folder, name in (("results", "trials.parquet"), ("sessions/001", "sweep.yaml")):
        files = MlflowClient(writer.tracking_uri).list_artifacts(writer.sweep_run_id, folder)
        assert [file.path for file in files] == [f"{folder}/{name}"]


def test_the_dataset_is_an_input_of_the_sweep_and_of_its_trials(writer: MlflowWriter) -> None:
    for run_id in (writer.sweep_run_id, writer.run_id(0), writer.run_id(3)):
        assert run_id is not None
        (found,) = MlflowClient(writer.tracking_uri).get_run(run_id).inputs.dataset_inputs
        assert (found.dataset.name, found.dataset.digest) == (DATASET["name"], DATASET["content_hash"])
        assert json.loads(found.dataset.profile)["images"] == {"train": 1437, "test": 360}
        assert json.loads(found.dataset.source) == {"uri": DATASET["uri"]}


def test_every_trial_status_has_an_mlflow_status() -> None:
    assert set(RUN_STATUS) == set(TrialStatus) - {TrialStatus.RUNNING}


def test_each_trial_is_a_child_run_with_its_status(writer: MlflowWriter) -> None:
    assert writer.sweep_run_id is not None
    runs = runs_of(writer.tracking_uri, writer.sweep_run_id)
    assert [run.info.run_name for run in runs] == [f"s-001/trial-0000{number}" for number in range(4)]
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED", "FAILED", "KILLED"]
    statuses = [run.data.tags["spatialsweep.status"] for run in runs]
    assert statuses == ["finished", "pruned", "failed", "interrupted"]
    assert [run.data.tags["spatialsweep.tune_trial"] for run in runs] == [f"tune{number}" for number in range(4)]
    assert runs[2].data.tags["spatialsweep.reason"] == REASON
    assert REASON in runs[2].data.tags["mlflow.note.content"]
    assert runs[1].data.params["lr"] == "1.5"
    assert runs[1].data.params["training.lr"] == "0.1"
    assert [run.info.run_id for run in runs] == [writer.run_id(number) for number in range(4)]
    assert all(run.info.end_time >= run.info.start_time for run in runs)


def test_metrics_are_curves_over_epochs(writer: MlflowWriter) -> None:
    client, run = MlflowClient(writer.tracking_uri), writer.run_id(0)
    assert run is not None
    curve = client.get_metric_history(run, "val/top1")
    assert [(point.step, point.value) for point in curve] == [(1, 0.4), (2, 0.8)]
    pruned = writer.run_id(1)
    assert pruned is not None
    assert [point.step for point in client.get_metric_history(pruned, "train/loss")] == [1]


def test_progress_within_epochs_is_a_curve_over_steps(writer: MlflowWriter) -> None:
    client = MlflowClient(writer.tracking_uri)
    history = client.get_metric_history(writer.run_id(0), "progress/train_loss")
    assert [(point.step, point.value) for point in history] == [(50, 2.0), (100, 1.0)]
    history = client.get_metric_history(writer.run_id(0), "progress/images_per_s")
    assert [(point.step, point.value) for point in history] == [(50, 800.0), (100, 800.0)]


def test_a_journal_replayed_again_changes_nothing(writer: MlflowWriter, journal: Path) -> None:
    assert writer.sweep_run_id is not None
    journal.with_name("tracked.json").unlink()
    before = runs_of(writer.tracking_uri, writer.sweep_run_id)
    again = replay(journal, writer.tracking_uri)
    assert again.sweep_run_id == writer.sweep_run_id
    after = runs_of(writer.tracking_uri, writer.sweep_run_id)
    assert [repr(run.to_dictionary()) for run in after] == [repr(run.to_dictionary()) for run in before]
    curve = MlflowClient(writer.tracking_uri).get_metric_history(before[0].info.run_id, "val/top1")
    assert [point.step for point in curve] == [1, 2]


def test_a_later_writer_resumes_at_the_bookmark(folder: Path, checkpoint: Path) -> None:
    path = folder / "marked" / "journal.jsonl"
    own = path.parent / "trials" / "trial-00000" / "best.pt"
    own.parent.mkdir(parents=True)
    shutil.copy(checkpoint, own)
    tell(path, own)
    first = replay(path, embedded_uri(folder))
    with Journal(path) as journal:
        Ledger(journal).trial_resumed(3, "tune3-again")
    again = replay(path, embedded_uri(folder))
    assert (again.sweep_run_id, again.run_id(0)) == (first.sweep_run_id, first.run_id(0))
    assert again.events_sent == 1
    run = MlflowClient(first.tracking_uri).get_run(str(first.run_id(3)))
    assert (run.info.status, run.data.tags["spatialsweep.tune_trial"]) == ("RUNNING", "tune3-again")
    path.with_name("tracked.json").write_text("{")
    assert replay(path, embedded_uri(folder)).run_id(0) == first.run_id(0)


def test_a_bookmark_of_runs_that_are_gone_is_ignored(tmp_path: Path) -> None:
    tell(tmp_path / "journal.jsonl")
    replay(tmp_path / "journal.jsonl", embedded_uri(tmp_path))
    (tmp_path / "mlflow.db").unlink()
    again = replay(tmp_path / "journal.jsonl", embedded_uri(tmp_path))
    assert again.sweep_run_id is not None
    assert len(runs_of(again.tracking_uri, again.sweep_run_id)) == 4


def test_two_sweeps_of_one_name_have_separate_runs(writer: MlflowWriter, folder: Path) -> None:
    tell(folder / "other" / "journal.jsonl")
    other = replay(folder / "other" / "journal.jsonl", writer.tracking_uri)
    assert other.sweep_run_id not in (None, writer.sweep_run_id)
    assert other.sweep_run_id is not None
    assert len(runs_of(writer.tracking_uri, other.sweep_run_id)) == 4


def test_the_checkpoint_of_a_run_is_loaded_as_a_network(
    writer: MlflowWriter, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = writer.run_id(0)
    assert run is not None
    assert fetch_checkpoint(run, writer.tracking_uri, tmp_path).read_bytes() == checkpoint.read_bytes()
    assert "Downloading" not in capfd.readouterr().err
    for source in (run, f"runs:/{run}", f"runs:/{run}/checkpoint/best.pt"):
        assert load_model(source, tracking_uri=writer.tracking_uri).pixel_mean == (0.5,)
    with pytest.raises(CheckpointError, match="holds no checkpoint; a sweep keeps those of its best trials only"):
        load_model(f"runs:/{writer.run_id(1)}", tracking_uri=writer.tracking_uri)
    with pytest.raises(CheckpointError, match=f"has no run '{'0' * 32}'"):
        load_model("0" * 32, tracking_uri=writer.tracking_uri)


def test_a_run_is_found_in_the_database_of_the_current_folder(
    writer: MlflowWriter, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(RAY_JOB_CONFIG_JSON_ENV_VAR, raising=False)
    (tmp_path / "runs").symlink_to(folder, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    assert load_model(f"runs:/{writer.run_id(0)}").class_names == tuple("0123456789")


def test_events_that_a_missing_server_did_not_get_stay_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    path = tmp_path / "journal.jsonl"
    tell(path)
    before, events = path.read_bytes(), len(list(read_events(path)))
    uri = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(
        TrackingError,
        match=rf"^{events} events did not reach MLflow at {uri} \(.*kept in {path}; `spatialsweep sync .*` sends",
    ):
        replay(path, uri, timeout_s=1.0)
    assert path.read_bytes() == before
    assert replay(path, embedded_uri(tmp_path)).run_id(3)
