"""A tracking server that is slow, loses answers, is killed and restarted, during a sweep."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner

from orchestrator import load_result
from orchestrator.cli.main import app
from orchestrator.config import load_sweep, resolve_trial
from orchestrator.errors import TrackingError
from orchestrator.records.folder.known_servers import note_server
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.server_addresses import embedded_uri
from orchestrator.sweep.sync import sync_sweep
from orchestrator.tracking.event_recorder import EventRecorder
from orchestrator.tracking.mlflow_client import open_client, require_server
from orchestrator.tracking.mlflow_runs import KEY
from orchestrator.tracking.mlflow_writer import MlflowWriter
from tests.support.servers.mlflow_server import BadConnection, MlflowServer
from tests.support.servers.ports import free_port
from tests.support.sweeps.fake_sweeps import write_sweep
from tests.support.waiting import wait_for

TRIALS, EPOCHS = 8, 4
TOLERANCE_S = 1e-9


class Sweep:
    """Sweep whose events are written one after another while a writer sends them to a server.

    Args:
        runs_dir: Folder of results.
        uri: Address of the server.
    """

    def __init__(self, runs_dir: Path, uri: str) -> None:
        space = {"lr": {"type": "float", "low": 1e-3, "high": 1e-2}}
        self.config = load_sweep(
            {
                "name": "s",
                "dataset": {"name": "digits"},
                "model": {"name": "conv_resnet26_small"},
                "search": space,
                "tracking": {"uri": uri, "experiment": "outage"},
                "runs_dir": str(runs_dir),
            }
        )
        note_server(uri)  # as `run` does
        self.folder = runs_dir / "s"
        self.journal = Journal(self.folder / "journal.jsonl")
        self.ledger = Ledger(self.journal)
        self.ledger.sweep_started("s", self.config.model_dump(mode="json"), {}, {})
        self.writer = MlflowWriter(self.journal.path, tracking_uri=uri, experiment="outage", artifacts=runs_dir)
        self.longest_wait_s = 0.0

    def train(self, numbers: range) -> None:
        """Write the events of some trials, and record the seconds of the slowest."""
        for number in numbers:
            params = {"lr": 1e-3 + number / 1e4}
            trial = resolve_trial(self.config, number, params).model_dump(mode="json")
            self._timed(self.ledger.trial_started, number, f"t{number}", params, trial)
            for epoch in range(1, EPOCHS + 1):
                metrics = {
                    "val/top1": (number + 1) / (epoch + 7),
                    "train/loss": 1 / (epoch + number),
                    "lr": 0.1 / epoch,
                }
                self._timed(self.ledger.trial_reported, number, epoch, metrics, float(epoch))
            self._timed(self.ledger.trial_ended, number, TrialStatus.FINISHED, "", {"val/top1": 0.5})

    def end(self) -> None:
        load_result(self.folder).write_tables()
        tables = [str(self.folder / f"{name}.parquet") for name in ("trials", "reports")]
        self.ledger.sweep_ended(TrialStatus.FINISHED, {"best_trial": 7}, tables)
        self.journal.close()

    def _timed(self, write: Callable[..., None], *event: Any) -> None:
        before = time.monotonic()
        write(*event)
        self.longest_wait_s = max(self.longest_wait_s, time.monotonic() - before)


@pytest.fixture
def connection(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[BadConnection]:
    """To the server; MLflow's own client gives up at once, so that a batch is what is repeated."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    monkeypatch.setattr("orchestrator.tracking.journal_follower._RETRY_S", 0.3)
    monkeypatch.setattr("orchestrator.tracking.journal_follower._POLL_S", 0.05)
    connection = BadConnection(mlflow_server.port)
    yield connection
    connection.close()


def assert_mlflow_has_the_tables(uri: str, folder: Path) -> None:
    """Check that MLflow has every number of the result table once, and nothing else."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("outage").experiment_id
    runs = client.search_runs([experiment], "", ViewType.ALL)
    trials = {int(run.data.tags["spatialsweep.optuna_trial"]): run for run in runs if "/" in run.data.tags[KEY]}
    assert (len(runs), sorted(trials)) == (TRIALS + 1, list(range(TRIALS)))
    assert {run.info.status for run in runs} == {"FINISHED"}
    rows = pq.read_table(folder / "reports.parquet").to_pylist()
    assert len(rows) == TRIALS * EPOCHS * 3
    wanted: dict[tuple[int, str], list[tuple[int, float]]] = {}
    for row in rows:
        wanted.setdefault((row["trial"], row["metric"]), []).append((row["epoch"], row["value"]))
    for (number, metric), curve in wanted.items():
        points = client.get_metric_history(trials[number].info.run_id, metric)
        assert [(point.step, point.value) for point in points] == curve
    for row in pq.read_table(folder / "trials.parquet").to_pylist():
        found = trials[row["trial"]].data
        assert found.metrics["cost/held_s"] == pytest.approx(row["held_s"], abs=TOLERANCE_S)
        assert found.params["training.lr"] == str(1e-3 + row["trial"] / 1e4)


@pytest.mark.slow
def test_numbers_are_those_of_the_table_after_delays_lost_answers_and_a_killed_server(
    tmp_path: Path, mlflow_server: MlflowServer, connection: BadConnection
) -> None:
    sweep = Sweep(tmp_path / "runs", connection.uri)
    sweep.writer.start()
    sweep.train(range(2))
    wait_for(lambda: sweep.writer.run_id(1) is not None)

    connection.lose_share = 1.0
    sweep.train(range(2, 4))
    wait_for(lambda: connection.lost >= 2)
    connection.lose_share, connection.lose_answers = 0.0, True
    before = connection.lost
    wait_for(lambda: connection.lost >= before + 2)
    connection.delay_s, connection.lose_share, connection.lose_answers = 0.01, 0.1, False
    wait_for(lambda: sweep.writer.run_id(3) is not None)

    mlflow_server.kill()
    sweep.train(range(4, 6))  # nobody is there
    wait_for(lambda: connection.refused >= 2)
    assert sweep.writer.run_id(5) is None
    mlflow_server.start()
    wait_for(lambda: sweep.writer.run_id(5) is not None)

    connection.lose_share = 1.0
    sweep.train(range(6, TRIALS))
    sweep.end()
    with pytest.raises(TrackingError, match=r"events did not reach MLflow .* `spatialsweep sync s` sends them"):
        sweep.writer.drain(1)
    assert sweep.longest_wait_s < 60  # training writes to the journal; a request that hangs takes 120 s

    connection.lose_share = 0.0
    assert "events sent" in sync(tmp_path)
    assert_mlflow_has_the_tables(mlflow_server.uri, sweep.folder)
    assert "0 events sent" in sync(tmp_path)


def test_a_run_is_not_there_twice_when_the_first_request_for_it_arrives_late(
    tmp_path: Path, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each run is requested a first time, given up while the request is under way, and not found by the search for it.
    monkeypatch.setattr("orchestrator.tracking.journal_follower._RETRY_S", 0.01)
    monkeypatch.setattr("orchestrator.tracking.journal_follower._POLL_S", 0.01)
    arrives_before = ""
    create, end = MlflowClient.create_run, EventRecorder._end_sweep
    under_way: dict[str, dict[str, Any]] = {}
    late: list[str] = []

    def arrive(client: MlflowClient, key: str) -> None:
        late.append(str(create(client, **under_way[key]).info.run_id))

    def create_late(client: MlflowClient, experiment: str, **settings: Any) -> Any:
        key = settings["tags"][KEY]
        if key not in under_way:
            under_way[key] = {"experiment_id": experiment, **settings}
            raise MlflowException("no answer")
        if arrives_before == "the retry":
            arrive(client, key)
        run = create(client, experiment, **settings)
        if arrives_before == "the answer":
            arrive(client, key)
        return run

    def end_late(recorder: EventRecorder, event: Any) -> None:
        if arrives_before == "the end":
            for key in list(under_way)[-3:]:
                arrive(recorder._client, key)
        end(recorder, event)

    monkeypatch.setattr(MlflowClient, "create_run", create_late)
    monkeypatch.setattr(EventRecorder, "_end_sweep", end_late)
    for arrives_before in ("the retry", "the answer", "the end"):
        sweep = Sweep(tmp_path / arrives_before, mlflow_server.uri)
        sweep.writer.start()
        sweep.train(range(2))
        sweep.end()
        sweep.writer.drain(200)

    client = MlflowClient(mlflow_server.uri)
    experiment = client.get_experiment_by_name("outage").experiment_id
    there = {run.data.tags[KEY]: run for run in client.search_runs([experiment])}
    assert len(there) == len(client.search_runs([experiment])) == 9
    assert all(run.data.params and run.info.status == "FINISHED" for run in there.values())
    assert len(late) == 9
    assert {client.get_run(run_id).info.lifecycle_stage for run_id in late} == {"deleted"}


def test_a_session_after_a_timeout_creates_no_run_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.tracking.journal_follower._LAST_REQUEST_S", 0.1)
    create, asked, answers = MlflowClient.create_run, threading.Event(), threading.Event()
    creators: list[str] = []

    def create_slowly(client: MlflowClient, experiment: str, **settings: Any) -> Any:
        key = settings["tags"][KEY]
        if key.endswith("/0") and not asked.is_set():
            asked.set()
            assert answers.wait(200)
        creators.append(key)
        return create(client, experiment, **settings)

    monkeypatch.setattr(MlflowClient, "create_run", create_slowly)
    sweep = Sweep(tmp_path / "runs", embedded_uri(tmp_path / "runs"))
    sweep.train(range(3))  # all of it is one batch
    sweep.writer.start()
    assert asked.wait(200)
    with pytest.raises(TrackingError, match="events did not reach"):
        sweep.writer.drain(0.1)
    sweep.end()
    later = threading.Thread(target=sync_sweep, args=(SweepFolder(sweep.folder),))
    later.start()
    answers.set()
    later.join()
    sweep.writer._thread.join()

    client = MlflowClient(sweep.writer.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("outage").experiment_id])
    assert len(runs) == len(creators) == 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sweep.writer.run_id(1) is None  # the rest of its batch was left to the other


def sync(folder: Path) -> str:
    done = CliRunner().invoke(app, ["sync", "s", "--runs-dir", str(folder / "runs")])
    assert done.exit_code == 0, done.output
    return done.output


def test_commands_find_out_at_once_that_no_server_answers(tmp_path: Path) -> None:
    uri = f"http://me:secret@127.0.0.1:{free_port()}"
    message = (
        rf"^no server answers at {re.escape(uri.replace('secret', '***'))} \(Connection refused\)\. Is MLflow running"
    )
    with pytest.raises(TrackingError, match=message):
        open_client(uri)
    folder = SweepFolder(write_sweep(tmp_path, "s", []))
    with pytest.raises(TrackingError, match=message):
        sync_sweep(folder, uri)
    assert open_client(uri, patient=True) is not None  # a sweep waits for its server


def test_a_server_behind_a_proxy_is_not_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"http://mlflow.invalid:{free_port()}"
    with pytest.raises(TrackingError, match="no server answers"):
        require_server(uri)
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    require_server(uri)
