"""What each node says about itself; runs there, and so imports nothing that a node could lack."""

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

from orchestrator.uris import without_password, without_user

COMPARED = ("ray", "torch", "timm", "optuna", "mlflow", "pyarrow")
_ANSWER_S = 10.0


def look_at_node(runs_dir: str, marker: str, tracking_uri: str | None, storage_uri: str | None) -> dict[str, Any]:
    """Everything that is asked of one node.

    Args:
        runs_dir: Folder that all nodes are to share.
        marker: Name of a file in it that the asking process has written; nothing looks for it where empty.
        tracking_uri: MLflow server to be reached.
        storage_uri: Database to be reached.

    Returns:
        Texts, numbers and flags; an `error` beside what could not be found out.
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
    """The node's time, in Unix seconds."""
    return time.time()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _devices() -> dict[str, Any]:
    """GPUs as the driver sees them; a node without the program has none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"gpus": [], "driver": ""}
    command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        return {"gpus": [], "driver": "", "error": str(error)}
    rows = [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return {"gpus": [row[0] for row in rows], "driver": rows[0][1] if rows else ""}


def _storage(folder: Path, marker: str) -> dict[str, Any]:
    """Whether the folder is the one the asking process sees, and can be written."""
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
    """Whether a server's port can be reached; a file is nobody's server."""
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
