"""Start of `mlflow server` with passwords, and without secrets on its command line.

MLflow's app `basic-auth` checks names and passwords. This module closes what its defaults leave open: users have no
permissions by default, the administrator chooses the first password, and the accepted host names are listed.
"""

from __future__ import annotations

import configparser
import importlib.util
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from orchestrator.errors import SpatialSweepError
from orchestrator.server_addresses import scheme_of
from orchestrator.uris import without_password

DATABASE = "MLFLOW_BACKEND_STORE_URI"
ADMIN_PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"  # noqa: S105 - the name of a variable
_ADMIN_NAME = "MLFLOW_AUTH_ADMIN_USERNAME"
_SESSION_KEY = "MLFLOW_FLASK_SERVER_SECRET_KEY"
_SHORTEST_PASSWORD = 12
_REMEMBERED_S = 30  # a password is hashed at great cost on purpose; once in so many seconds is enough
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NEEDED = {"flask_wtf": "mlflow[auth]", "psycopg": "psycopg[binary]"}


class TrackingServerError(SpatialSweepError):
    """Raised when the server cannot be started with the given settings."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Settings of the server.

    Args:
        database: PostgreSQL URI for runs and users; may hold a password.
        artifacts: `s3://bucket/folder`, or a folder of this machine; only the server accesses it.
        host: Address to listen on.
        port: Port to listen on.
        allowed_hosts: Host names that clients use, such as `mlflow.example:5000`; empty on a loopback address.
        admin_password: Password of the first user; ignored once a user exists.
        admin_name: Name of the first user.
        workers: Number of server processes.
    """

    database: str
    artifacts: str
    host: str = "127.0.0.1"
    port: int = 5000
    allowed_hosts: tuple[str, ...] = ()
    admin_password: str = ""
    admin_name: str = "admin"
    workers: int = 4

    def problems(self) -> Iterator[str]:
        """Yield the problems that prevent a start."""
        if not self.admin_password:
            yield f"there is no default password: choose one for '{self.admin_name}' and set {ADMIN_PASSWORD}"
        elif len(self.admin_password) < _SHORTEST_PASSWORD:
            yield f"{ADMIN_PASSWORD}: has fewer than {_SHORTEST_PASSWORD} characters"
        if not self.database:
            yield f"set {DATABASE}, such as postgresql://mlflow:PASSWORD@db.example/mlflow"
        elif scheme_of(self.database) != "postgresql":
            yield f"{DATABASE}: got {without_password(self.database)}; several users need postgresql://"
        if "://" in self.artifacts and scheme_of(self.artifacts) not in ("s3", "gs", "wasbs", "abfss", "file"):
            yield f"--artifacts: got {without_password(self.artifacts)}; name a folder or s3://bucket/folder"
        if self.host not in _LOOPBACK and not self.allowed_hosts:
            yield f"--allowed-hosts: others reach {self.host}; name what they call it, such as mlflow.example:5000"
        if "*" in self.allowed_hosts:
            yield "--allowed-hosts: '*' lets any web page talk to the server through its visitors' browsers"
        for module, package in _NEEDED.items():
            if importlib.util.find_spec(module) is None:
                yield f"{package} is not installed: pip install 'spatialsweep[mlflow-server]'"

    @property
    def command(self) -> list[str]:
        """Command line of the server, without secrets: every user of a machine sees command lines."""
        artifacts = self.artifacts if "://" in self.artifacts else str(Path(self.artifacts).resolve())
        command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"]
        command += ["--host", self.host, "--port", str(self.port), "--workers", str(self.workers)]
        command += ["--artifacts-destination", artifacts]
        return [*command, "--allowed-hosts", ",".join(self.allowed_hosts)] if self.allowed_hosts else command

    def environment(self, auth_file: Path, base: Mapping[str, str]) -> dict[str, str]:
        """Return the environment variables of the server.

        Args:
            auth_file: Settings of `basic-auth`, as `write_auth_file` wrote them.
            base: Environment variables of this process.
        """
        return {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a record of runs executes nothing
            _SESSION_KEY: secrets.token_hex(32),
            **base,
            DATABASE: _with_driver(self.database),
            "MLFLOW_AUTH_CONFIG_PATH": str(auth_file),
            ADMIN_PASSWORD: self.admin_password,
            _ADMIN_NAME: self.admin_name,
        }

    def write_auth_file(self, path: Path) -> None:
        """Write the settings of `basic-auth` with mode 0600: they hold the database's password."""
        content = configparser.ConfigParser(interpolation=None)
        content["mlflow"] = {
            "default_permission": "NO_PERMISSIONS",
            "database_uri": _with_driver(self.database).replace("%", "%%"),  # MLflow reads with interpolation
            "admin_username": self.admin_name,
            "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
            "auth_cache_ttl_seconds": str(_REMEMBERED_S),
        }
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            content.write(file)


def run_server(settings: ServerSettings) -> int:
    """Run the server; block until it exits or receives SIGINT or SIGTERM; return its exit code.

    Raises:
        TrackingServerError: Lists all problems of the settings.
    """
    if problems := list(settings.problems()):
        raise TrackingServerError(
            "\n".join(["the MLflow server was not started:", *(f"  {text}" for text in problems)])
        )
    with tempfile.TemporaryDirectory(prefix="spatialsweep-mlflow-") as folder:
        auth_file = Path(folder) / "basic_auth.ini"
        settings.write_auth_file(auth_file)
        server = subprocess.Popen(settings.command, env=settings.environment(auth_file, os.environ))  # noqa: S603

        def pass_on(number: int, _: FrameType | None) -> None:
            server.send_signal(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, pass_on)
        return server.wait()


def _with_driver(uri: str) -> str:
    """Return the URI with the installed driver; SQLAlchemy's default is the older psycopg2."""
    return uri.replace("postgresql://", "postgresql+psycopg://", 1)
