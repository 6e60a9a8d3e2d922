"""Permanent faults of MLflow: logged once, with the remedy, and not retried for minutes."""

from __future__ import annotations

import http.server
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking._tracking_service import utils as mlflow_utils
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.errors import TrackingError
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.server_addresses import embedded_uri
from orchestrator.tracking.journal_follower import JournalFollower
from orchestrator.tracking.mlflow_client import silence_mlflow
from tests.support.journal_events import rewrite
from tests.support.servers.ports import free_port
from tests.support.sweeps.fake_sweeps import write_sweep
from tests.support.sweeps.tracked_sweep import DATASET, replay
from tests.support.waiting import wait_for

TRIALS = [(TrialStatus.FINISHED, [0.5])]
DEADLINE_S = 100.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create a sweep with a file to store, none of which is in MLflow yet."""
    folder = write_sweep(tmp_path / "runs", "s", TRIALS, tracking={"experiment": "tests"})
    (folder / "sessions" / "001").mkdir(parents=True)
    path = folder / "sessions" / "001" / "sweep.yaml"
    path.write_text("name: s\n")
    with Journal(folder / "journal.jsonl") as journal:
        Ledger(journal).session_described([str(path)], DATASET)
    return folder


def client(folder: Path) -> MlflowClient:
    return MlflowClient(embedded_uri(folder.parent))


def create_experiment(folder: Path) -> str:
    location = (folder.parent / "artifacts").as_uri()
    return str(client(folder).create_experiment("tests", artifact_location=location))


def delete_experiment(folder: Path) -> None:
    client(folder).delete_experiment(create_experiment(folder))


def delete_experiment_after_a_replay(folder: Path) -> None:
    replay(folder / "journal.jsonl", embedded_uri(folder.parent))
    with Journal(folder / "journal.jsonl") as journal:
        Ledger(journal).trial_resumed(0, "again")
    client(folder).delete_experiment(client(folder).get_experiment_by_name("tests").experiment_id)


def delete_run(folder: Path) -> None:
    writer = replay(folder / "journal.jsonl", embedded_uri(folder.parent))
    (folder / "tracked.json").unlink()
    client(folder).delete_run(str(writer.sweep_run_id))


def change_schema(folder: Path) -> None:
    create_experiment(folder)
    database = sqlite3.connect(folder.parent / "mlflow.db")
    with database:
        database.execute("UPDATE alembic_version SET version_num = 'abad1deabad1'")
    database.close()
    mlflow_utils._tracking_store_registry._get_store_with_resolved_uri.cache_clear()  # a command has one of its own


def name_no_folder(folder: Path) -> None:
    change_config(folder, uri=f"sqlite:///{folder.parent}/none/mlflow.db")


def change_config(folder: Path, **tracking: str) -> None:
    def change(event: dict[str, Any]) -> None:
        if event["event"] == "sweep_started":
            event["config"]["tracking"] |= tracking

    rewrite(folder / "journal.jsonl", change)


def block_artifacts(folder: Path) -> None:
    (folder.parent / "artifacts").write_text("a file where a folder is to be")


FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (delete_experiment, "the experiment 'tests' was deleted in MLflow. Bring it back with `mlflow experiments restore"),
    (delete_experiment_after_a_replay, "the experiment 'tests' was deleted in MLflow"),
    (delete_run, "of this sweep was deleted in MLflow; `mlflow runs restore --run-id"),
    (change_schema, "its tables are of another version of MLflow. Of an older one: copy the database, then"),
    (name_no_folder, "there is no folder"),
    (block_artifacts, "the folder of its files"),
]


@pytest.mark.parametrize(("cause", "remedy"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_permanent_fault_ends_a_sync_at_once_with_the_remedy(
    folder: Path, cause: Callable[[Path], None], remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    cause(folder)
    before, started = (folder / "journal.jsonl").read_bytes(), time.monotonic()
    with caplog.at_level(logging.WARNING, logger="orchestrator"):
        done = CliRunner().invoke(app, ["sync", str(folder)])
    assert isinstance(done.exception, TrackingError)
    assert remedy in str(done.exception)
    assert "`spatialsweep sync s` sends them" in str(done.exception)
    assert time.monotonic() - started < DEADLINE_S
    assert sum(remedy in record.getMessage() for record in caplog.records) == 1
    assert (folder / "journal.jsonl").read_bytes() == before


def test_a_damaged_database_is_reported_before_anything_is_sent(folder: Path) -> None:
    (folder.parent / "mlflow.db").write_text("This is no database, but a text of some length." * 40)
    before, started = (folder / "journal.jsonl").read_bytes(), time.monotonic()
    done = CliRunner().invoke(app, ["sync", str(folder)])
    assert isinstance(done.exception, TrackingError)
    assert "mlflow.db: is damaged (file is not a database). Move it away: `spatialsweep sync NAME`" in str(
        done.exception
    )
    assert time.monotonic() - started < DEADLINE_S
    assert (folder / "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"), (403, "ask for the right to edit")],
)
def test_a_server_that_refuses_the_user_is_not_retried_for_minutes(
    folder: Path, status: int, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        do_POST = do_GET

        def log_message(self, *_arguments: object) -> None:
            """Print nothing."""

    monkeypatch.setenv("NO_PROXY", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri, started = f"http://127.0.0.1:{server.server_address[1]}", time.monotonic()
        done = CliRunner().invoke(app, ["sync", str(folder), "--tracking-uri", uri])
        server.shutdown()
    assert remedy in str(done.exception)
    assert time.monotonic() - started < DEADLINE_S


def test_a_fault_that_is_mended_during_the_sweep_loses_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("orchestrator.tracking.journal_follower._RETRY_S", 0.05)
    delete_experiment(folder)
    writer = writer_of(folder)
    with caplog.at_level(logging.WARNING, logger="orchestrator"):
        writer.start()
        wait_for(lambda: writer.fault is not None)
        time.sleep(0.5)
        (experiment,) = [found for found in client(folder).search_experiments(view_type=2) if found.name == "tests"]
        client(folder).restore_experiment(experiment.experiment_id)
        writer.drain(200)
    assert writer.fault is None
    assert writer.run_id(0) is not None
    assert sum("does not take an event" in record.getMessage() for record in caplog.records) == 1


def test_a_database_that_refuses_events_leaves_no_traceback_each_time(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silence_mlflow()
    store = client(folder)._tracking_client.store
    with pytest.raises(MlflowException, match="disk is full"), store.ManagedSessionMaker() as _:
        raise sqlalchemy.exc.OperationalError("INSERT", {}, Exception("database or disk is full"))
    assert "Traceback" not in capsys.readouterr().err


def test_a_missing_server_is_retried_until_the_timeout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    started = time.monotonic()
    with pytest.raises(TrackingError, match="events did not reach MLflow"):
        replay(folder / "journal.jsonl", f"http://127.0.0.1:{free_port()}", timeout_s=1.0)
    assert time.monotonic() - started >= 1.0


def writer_of(folder: Path) -> JournalFollower:
    from orchestrator.tracking.mlflow_writer import MlflowWriter

    return MlflowWriter(
        folder / "journal.jsonl",
        tracking_uri=embedded_uri(folder.parent),
        experiment="tests",
        artifacts=folder.parent / "artifacts",
    )
