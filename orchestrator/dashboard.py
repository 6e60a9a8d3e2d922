"""Serves the MLflow page over the embedded database."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from orchestrator.errors import TrackingError
from orchestrator.runs_dir import resolve_runs_dir


def serve(runs_dir: Path | None, *, host: str, port: int) -> None:
    """Runs MLflow's own server in the foreground until it is interrupted.

    Args:
        runs_dir: Folder of all results; None takes the default.
        host: Address to listen on.
        port: Of the page.

    Raises:
        TrackingError: There are no runs yet, or the port is taken.
    """
    folder = resolve_runs_dir(str(runs_dir) if runs_dir else None)
    if not (folder / "mlflow.db").exists():
        raise TrackingError(
            f"{folder} holds no runs yet; run a sweep first, such as: spatialsweep run sweeps/digits.yaml"
        )
    _require_free(host, port)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--default-artifact-root", (folder / "artifacts").as_uri(), "--host", host, "--port", str(port)]
    print(f"MLflow at http://{host}:{port} (Ctrl-C ends it)", flush=True)  # noqa: T201
    page = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = subprocess.Popen(command, env=page)  # noqa: S603
    try:
        server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()


def _require_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        if probe.connect_ex((host, port)) == 0:
            raise TrackingError(f"port {port} of {host} is taken; choose another with --port")
