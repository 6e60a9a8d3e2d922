"""`spatialsweep dashboard`: pages of a sweep, served where no server does, and their end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.dashboard.pages import Address, show_sweep
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.ledger import TrialStatus
from orchestrator.search.storage import open_storage
from orchestrator.search.study import close_study, open_study
from orchestrator.server_addresses import embedded_uri
from tests.support.servers.ports import free_port
from tests.support.sweeps.fake_sweeps import PLAN, write_sweep
from tests.support.sweeps.plans import search_plan
from tests.support.sweeps.tracked_sweep import replay
from tests.support.waiting import wait_for

COMMAND = [sys.executable, "-m", "orchestrator", "dashboard"]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the runs folder of a finished sweep, in MLflow and with its study."""
    runs_dir = tmp_path_factory.mktemp("runs")
    folder = write_sweep(runs_dir, "s", [(TrialStatus.FINISHED, [0.5])], tracking={"experiment": "tests"})
    replay(folder / "journal.jsonl", embedded_uri(runs_dir))
    storage = open_storage(f"sqlite:///{runs_dir / 'optuna.db'}")
    close_study(open_study(search_plan({**PLAN, "name": "s"}), "s", storage))
    return runs_dir


@contextmanager
def page(ended_by: signal.Signals, *arguments: str) -> Iterator[str]:
    """Yield the URL that a dashboard prints; afterwards, check that it left no process."""
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--port", str(free_port())],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_PROXY": "*"},
    )
    family: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "(Ctrl-C ends it)" in line)
        family = psutil.Process(process.pid).children(recursive=True)
        yield line.split()[0]
    finally:
        if ended_by is signal.SIGINT:
            os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole foreground group
        else:
            process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
    wait_for(lambda: not [member for member in family if member.is_running()])


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


@pytest.mark.slow
def test_the_page_of_a_sweep_is_served_from_the_local_database(runs_dir: Path) -> None:
    with page(signal.SIGINT, "s", "--runs-dir", str(runs_dir)) as url:
        base, _, path = url.partition("/#/")
        _, experiment, _, run = path.split("/")
        found = json.loads(read(f"{base}/ajax-api/2.0/mlflow/runs/get?run_id={run}"))["run"]
        assert (found["info"]["run_name"], found["info"]["experiment_id"]) == ("s", experiment)
        assert b"<html" in read(base)


@pytest.mark.slow
def test_the_study_of_a_sweep_is_shown_by_optuna_dashboard(runs_dir: Path) -> None:
    pytest.importorskip("optuna_dashboard", reason="needs the extra dashboard")
    with page(signal.SIGTERM, "s", "--optuna", "--runs-dir", str(runs_dir)) as url:
        assert b"<html" in read(url)
        base, _, number = url.partition("/dashboard/studies/")
        (study,) = json.loads(read(f"{base}/api/studies"))["study_summaries"]
        assert (study["study_name"], study["study_id"]) == ("s", int(number))


def test_without_runs_or_with_a_port_that_is_taken_it_says_so(tmp_path: Path, runs_dir: Path) -> None:
    def refused(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["dashboard", *arguments])
        assert done.exit_code != 0
        return f"{done.output}{done.exception}"

    assert "holds no runs yet" in refused("--runs-dir", str(tmp_path))
    assert "name the sweep" in refused("--optuna")
    folder = write_sweep(tmp_path, "unsent", [])
    assert "has no run of this sweep; `spatialsweep sync` sends it" in refused(str(folder))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "is in use; choose another with --port" in refused("s", "--runs-dir", str(runs_dir), "--port", port)


def test_a_sweep_on_a_server_is_only_pointed_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("orchestrator.tracking.mlflow_runs.run_page", lambda uid, uri: "#/experiments/1/runs/abc")
    monkeypatch.setattr("webbrowser.open", opened.append)
    folder = write_sweep(tmp_path, "s", [], tracking={"uri": "http://mlflow.example:5000"})
    show_sweep(SweepFolder(folder), Address(browser=True), "http://ada:drowssap@mlflow.example:5000/")
    assert opened == ["http://mlflow.example:5000/#/experiments/1/runs/abc"]
    assert "drowssap" not in capsys.readouterr().out
