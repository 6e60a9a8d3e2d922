"""Addresses in a received journal: neither contacted nor opened before the user confirms them."""

from __future__ import annotations

import http.server
import sqlite3
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator import load_result
from orchestrator.cli.main import app
from orchestrator.config import load_sweep
from orchestrator.errors import ConfigError, DataError, SpatialSweepError
from orchestrator.inference.images import dataset_of
from orchestrator.inference.trained_network import find_network
from orchestrator.records.folder.known_servers import is_known, note_dataset, note_server
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.ledger import TrialStatus
from orchestrator.sweep.compatibility import stored_config
from orchestrator.sweep.run import run_sweep
from tests.support.journal_events import rewrite
from tests.support.sweeps.fake_sweeps import write_sweep
from tests.support.sweeps.stored_models import StoredModels

TRIALS = [(TrialStatus.FINISHED, [0.5])]


class Listener(http.server.ThreadingHTTPServer):
    """Server that only records its requests and their credentials."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heard: list[str | None] = []

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Listener

    def do_GET(self) -> None:
        self.server.heard.append(self.headers.get("Authorization"))
        self.send_error(404)

    do_HEAD = do_POST = do_GET

    def log_message(self, *_arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "drowssap")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "*")
    with Listener() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "spatialsweep" / "servers"


def command(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    return f"{done.exit_code} {done.output} {done.exception or ''}"


COMMANDS = [
    ["report"],
    ["delete", "--dry-run"],
    ["delete", "--yes"],
    ["sync"],
    ["register", "--as", "m"],
    ["dashboard"],
    ["resume"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_command_sends_anything_to_a_server_that_only_a_journal_names(
    tmp_path: Path, listener: Listener, arguments: list[str]
) -> None:
    folder = write_sweep(tmp_path / "runs", "s", TRIALS, tracking={"uri": listener.uri})
    name, *options = arguments
    said = command(name, "s", *options, "--runs-dir", str(folder.parent))
    assert f"the journal names {listener.uri} for MLflow, a server that you have not named" in said
    assert f"confirm it with `--tracking-uri {listener.uri}`" in said
    assert listener.heard == []
    assert folder.exists()


def test_a_server_named_on_the_command_line_is_contacted_and_remembered(
    tmp_path: Path, listener: Listener, nothing_known: Path
) -> None:
    folder = write_sweep(tmp_path / "runs", "s", TRIALS, tracking={"uri": listener.uri})
    command("report", str(folder), "--tracking-uri", listener.uri)
    assert listener.heard[0] == "Basic YWRhOmRyb3dzc2Fw"
    assert nothing_known.read_text() == f"{listener.uri}\n"
    assert stat.S_IMODE(nothing_known.stat().st_mode) == 0o600
    before = len(listener.heard)
    command("report", str(folder))
    assert len(listener.heard) > before
    stored_config(SweepFolder(folder))


def test_explain_logs_nothing_to_a_server_that_only_a_journal_names(tmp_path: Path) -> None:
    stored = StoredModels(tmp_path / "runs")

    def change(event: dict[str, Any]) -> None:
        if event["event"] == "sweep_started":
            event["config"]["tracking"]["uri"] = "http://127.0.0.1:9"

    rewrite(stored.folder / "journal.jsonl", change)
    assert find_network(stored.folder).tracking_uri is None
    assert find_network(stored.folder, tracking_uri="http://127.0.0.1:9").tracking_uri == "http://127.0.0.1:9"


@pytest.mark.parametrize("command_name", ["explain", "export"])
def test_images_on_a_server_that_only_a_journal_names_are_not_read(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch, command_name: str
) -> None:
    for key in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{key}", "drowssap")
    stored = StoredModels(tmp_path / "runs")
    host = listener.uri.removeprefix("http://")
    uri = f"s3://bucket/x?endpoint_override={host}&scheme=http&region=us-east-1"

    def change(event: dict[str, Any]) -> None:
        if event["event"] == "sweep_started":
            event["config"]["dataset"] = {"uri": uri}

    rewrite(stored.folder / "journal.jsonl", change)
    options = ["--no-mlflow"] if command_name == "explain" else ["--format", "torch-export"]
    monkeypatch.chdir(tmp_path)
    said = command(command_name, str(stored.folder), *options)
    assert f"the images of its training are at {uri}, a server you have not named" in said
    assert f"add --dataset '{uri}'" in said
    assert listener.heard == []


def test_images_of_an_own_sweep_or_on_this_machine_are_read_without_an_option(tmp_path: Path) -> None:
    uri = "s3://bucket/scenes?endpoint_override=127.0.0.1:9&scheme=http"
    trained = replace(find_network(StoredModels(tmp_path / "own").folder), dataset={"uri": uri})
    for recorded in ({"uri": uri}, {"uri": None, "name": uri}):
        with pytest.raises(DataError, match="a server you have not named"):
            dataset_of(replace(trained, dataset=recorded), None)
    note_dataset(uri)  # as `run` and `submit` do
    assert dataset_of(trained, None) == uri
    assert dataset_of(trained, f"{uri}&region=us-east-1") == f"{uri}&region=us-east-1"
    assert is_known(f"{uri}&region=us-east-1")  # named with --dataset
    for local in ("data/cifar", "/data/cifar", "file:///data/cifar"):
        assert dataset_of(replace(trained, dataset={"uri": local}), None) == local
        note_dataset(local)
        assert not is_known(local)


def test_a_run_makes_its_own_servers_known_and_the_password_is_not_kept(tmp_path: Path, nothing_known: Path) -> None:
    config = load_sweep(
        {
            "name": "s",
            "dataset": {"name": "digits"},
            "model": {"name": "conv_resnet26_small"},
            "tracking": {"uri": "https://ada:drowssap@MLflow.example/ml/"},
            "storage": {"uri": f"sqlite:///{tmp_path}/studies.db"},
            "runs_dir": str(tmp_path / "runs"),
        }
    )
    with pytest.raises(SpatialSweepError, match="no Ray cluster answers"):
        run_sweep(config, address="127.0.0.1:9")
    assert nothing_known.read_text() == f"https://mlflow.example/ml\nsqlite:///{tmp_path}/studies.db\n"
    there = config.dataset.model_copy(update={"name": None, "uri": "nowhere://bucket/x"})
    with pytest.raises(SpatialSweepError, match="nowhere://bucket/x: cannot be opened"):
        run_sweep(config.model_copy(update={"name": "t", "dataset": there}), address="127.0.0.1:9")
    assert is_known("nowhere://bucket/x")


def test_known_servers_are_compared_by_address_only(monkeypatch: pytest.MonkeyPatch) -> None:
    note_server("https://me:pw@host:5000/ml")
    assert is_known("HTTPS://you@HOST:5000/ml/")
    assert not is_known("http://host:5000/ml")
    assert not is_known("https://host:5001/ml")
    assert not is_known("https://host:5000/ml@evil.example")
    note_server("postgresql://me:pw@db/studies")
    assert is_known("postgresql://me@db/studies")
    assert not is_known("postgresql://me@db/studies?host=evil.example")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://own:5000/")
    assert is_known("http://own:5000")


def test_a_list_that_others_may_write_is_not_used(nothing_known: Path, caplog: pytest.LogCaptureFixture) -> None:
    note_server("http://host:5000")
    assert is_known("http://host:5000")
    nothing_known.chmod(0o666)
    assert not is_known("http://host:5000")
    assert "others may write to it" in caplog.text


def test_a_database_file_outside_of_the_results_is_neither_opened_nor_made(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "places.sqlite") as private:
        private.execute("CREATE TABLE places (url TEXT)")
    private.close()
    before = (tmp_path / "places.sqlite").read_bytes()
    for number, uri in enumerate((f"sqlite:///{tmp_path}/places.sqlite", f"sqlite:///{tmp_path}/new.db?mode=rwc")):
        folder = write_sweep(tmp_path / "runs", f"s{number}", TRIALS, storage={"uri": uri})
        for arguments in (["resume"], ["delete", "--yes"], ["dashboard", "--optuna"]):
            name, *options = arguments
            said = command(name, folder.name, *options, "--runs-dir", str(tmp_path / "runs"))
            assert "that you have not named yourself" in said
        with pytest.raises(ConfigError, match="the journal names"):
            _ = load_result(folder).importance
    assert (tmp_path / "places.sqlite").read_bytes() == before
    assert not (tmp_path / "new.db").exists()
    (tmp_path / "runs" / "mlflow.db").symlink_to(tmp_path / "places.sqlite")
    folder = write_sweep(tmp_path / "runs", "linked", TRIALS)
    assert "a file outside of" in command("sync", str(folder))
    assert (tmp_path / "places.sqlite").read_bytes() == before
