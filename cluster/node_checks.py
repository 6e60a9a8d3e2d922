"""Checks that run on each node; imports nothing that a node could lack."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import time
import uuid
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator.runtime.mps import mps_runs
from orchestrator.uris import without_password, without_user

COMPARED = ("ray", "torch", "timm", "optuna", "mlflow", "pyarrow")
_ANSWER_S = 10.0


def look_at_node(runs_dir: str, marker: str, tracking_uri: str | None, storage_uri: str | None) -> dict[str, Any]:
    """Collect the facts of this node; runs in a Ray task on it.

    Args:
        runs_dir: Folder that all nodes must share.
        marker: Name of a file that the driver has written there; empty skips the check.
        tracking_uri: MLflow server that the node must reach.
        storage_uri: Database that the node must reach.

    Returns:
        Texts, numbers and flags; an `error` entry for a fact that could not be determined.
    """
    return {
        "host": socket.gethostname(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in COMPARED}},
        "devices": _devices(),
        "storage": _storage(Path(runs_dir), marker),
        "free_gb": _free_gb(Path(runs_dir)),
        "free_tmp_gb": _free_gb(Path("/tmp")),  # noqa: S108 - where Ray spills objects
        "tracking": _reach(tracking_uri),
        "database": _reach(storage_uri),
    }


def clock() -> float:
    """Return the node's clock as Unix time in seconds."""
    return time.time()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _devices() -> dict[str, Any]:
    """Return the GPUs that `nvidia-smi` lists; none without that program."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"gpus": [], "driver": ""}
    command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        return {"gpus": [], "driver": "", "error": str(error)}
    rows = [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return {"gpus": [row[0] for row in rows], "driver": rows[0][1] if rows else "", "mps": mps_runs()}


def _storage(folder: Path, marker: str) -> dict[str, Any]:
    """Check that the folder is the driver's and is writable."""
    if marker and not (folder / marker).exists():
        return {"error": f"{folder} does not hold what the driver has written to it"}
    probe = folder / f".doctor-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("here")
        probe.unlink()
    except OSError as error:
        return {"error": f"{folder} cannot be written: {error.strerror}"}
    return {}


def _free_gb(folder: Path) -> float:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 2**30


def _reach(uri: str | None) -> dict[str, Any]:
    """Check that a server's port can be reached; a database file needs no check."""
    if uri is None or uri.startswith("sqlite"):
        return {}
    parts = urlsplit(without_user(uri))
    host = parts.hostname or "localhost"
    try:
        port = parts.port or {"https": 443, "http": 80, "mysql": 3306}.get(parts.scheme.partition("+")[0], 5432)
    except ValueError as error:
        return {"error": f"{without_password(uri)}: {error}"}
    try:
        socket.create_connection((host, port), timeout=_ANSWER_S).close()
    except OSError as error:
        return {"error": f"{host}:{port}: {error}"}
    return {"reached": f"{host}:{port} from {os.uname().nodename}"}
