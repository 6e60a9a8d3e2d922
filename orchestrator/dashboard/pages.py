"""Pages of a sweep: MLflow for its runs, optuna-dashboard for its study; served until Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from socketserver import ThreadingMixIn
from types import FrameType
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from orchestrator.config.option_values import setting_values
from orchestrator.dashboard.guarded_page import GuardedPage
from orchestrator.errors import StorageError, TrackingError
from orchestrator.files.runs_dir import resolve_runs_dir
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.server_addresses import embedded_uri
from orchestrator.uris import without_user

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

MLFLOW_PORT = 5000
OPTUNA_PORT = 8080
_START_S = 120.0
_POLL_S = 0.1
_END_S = 30.0


@dataclass(frozen=True)
class Address:
    """Address that pages are served at.

    Args:
        host: Address to listen on.
        port: Port to listen on; None takes the program's default.
        browser: Open the page in a browser.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    browser: bool = False


class _PageServer(ThreadingMixIn, WSGIServer):
    """HTTP server with one daemon thread per connection, since browsers keep connections open."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the parent has it
        """Log no requests."""


def show_runs(runs_dir: Path | None, address: Address) -> None:
    """Serve MLflow over the database in the runs folder; block until Ctrl-C or SIGTERM.

    Raises:
        TrackingError: There are no runs yet, or the port is in use.
    """
    folder = resolve_runs_dir(runs_dir)
    if not (folder / "mlflow.db").exists():
        raise TrackingError(
            f"{folder} holds no runs yet; run a sweep first, such as: spatialsweep run sweeps/digits.yaml"
        )
    from orchestrator.tracking.mlflow_client import refuse_damaged_tracking

    refuse_damaged_tracking(embedded_uri(folder))
    _serve_mlflow(embedded_uri(folder), folder, address, "")


def show_sweep(folder: SweepFolder, address: Address, tracking_uri: str | None = None) -> None:
    """Open MLflow's page of a sweep; if its runs are in a database file, serve it and block until Ctrl-C or SIGTERM.

    Raises:
        TrackingError: MLflow does not answer or has no run of the sweep, or the port is in use.
    """
    from orchestrator.results.stored_sweep import read_sweep
    from orchestrator.sweep.compatibility import stored_config
    from orchestrator.tracking.mlflow_client import silence_mlflow
    from orchestrator.tracking.mlflow_runs import run_page

    silence_mlflow()
    config = stored_config(folder, values=setting_values(tracking_uri=tracking_uri), contacted=("tracking",))
    uri = config.tracking.uri or embedded_uri(folder.path.parent)
    page = run_page(read_sweep(folder).uid, uri)
    if uri.startswith("http"):
        _show(f"{without_user(uri).rstrip('/')}/{page}", address)
    else:
        _serve_mlflow(uri, folder.path.parent, address, page)


def show_study(folder: SweepFolder, address: Address, storage_uri: str | None = None) -> None:
    """Serve optuna-dashboard over the study of a sweep; block until Ctrl-C or SIGTERM.

    Raises:
        StorageError: optuna-dashboard is not installed, the database does not answer, or the port is in use.
    """
    from orchestrator.config.plans import study_uri
    from orchestrator.search.storage import open_storage
    from orchestrator.sweep.compatibility import stored_config

    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise StorageError("optuna-dashboard is not installed: pip install 'spatialsweep[dashboard]'") from None

    port = address.port or OPTUNA_PORT
    _require_free(address.host, port)
    config = stored_config(folder, values=setting_values(storage_uri=storage_uri), contacted=("storage",))
    storage = open_storage(study_uri(config.storage, folder.path.parent))
    study = storage.get_study_id_from_name(folder.name)
    with study_server(wsgi(storage), address.host, port) as server:
        _show(f"http://{address.host}:{port}/dashboard/studies/{study}", address, ends=True)
        with contextlib.suppress(KeyboardInterrupt), _ended_by_sigterm():
            server.serve_forever()


def study_server(page: WSGIApplication, host: str, port: int) -> WSGIServer:
    """Return a server for a page that refuses requests from other pages."""
    return make_server(host, port, GuardedPage(page, host, port), _PageServer, _QuietHandler)


def _serve_mlflow(uri: str, runs_dir: Path, address: Address, page: str) -> None:
    """Run MLflow's server in the foreground; its database's URI is passed in the environment."""
    from orchestrator.tracking.moved_results import update_artifact_places

    update_artifact_places(uri)
    port = address.port or MLFLOW_PORT
    _require_free(address.host, port)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", address.host, "--port", str(port), "--workers", "1"]
    command += ["--default-artifact-root", (runs_dir / "artifacts").as_uri()]
    settings = {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    base = f"http://{address.host}:{port}"
    with contextlib.suppress(KeyboardInterrupt), _ended_by_sigterm(), _running(command, settings) as server:
        _wait_until_healthy(server, base)
        _show(f"{base}/{page}", address, ends=True)
        server.wait()


@contextlib.contextmanager
def _running(command: list[str], settings: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    server = subprocess.Popen(command, env={**os.environ, **settings})  # noqa: S603
    try:
        yield server
    finally:
        server.terminate()
        try:
            server.wait(_END_S)
        except subprocess.TimeoutExpired:
            server.kill()


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Handle SIGTERM as Ctrl-C."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_until_healthy(server: subprocess.Popen[bytes], base: str) -> None:
    deadline = time.monotonic() + _START_S
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        with contextlib.suppress(OSError), direct.open(f"{base}/health", timeout=_POLL_S * 20) as answer:
            if answer.status == 200:
                return
        if server.poll() is not None or time.monotonic() > deadline:
            raise TrackingError(f"MLflow's page at {base} did not start; its output is above")
        time.sleep(_POLL_S)


def _show(url: str, address: Address, *, ends: bool = False) -> None:
    print(f"{url}{' (Ctrl-C ends it)' if ends else ''}", flush=True)  # noqa: T201
    if address.browser:
        webbrowser.open(url)


def _require_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        if probe.connect_ex((host, port)) == 0:
            raise TrackingError(f"port {port} of {host} is in use; choose another with --port")
