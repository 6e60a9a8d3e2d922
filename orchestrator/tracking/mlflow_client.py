"""MLflow's client, created after a check of its database; MLflow is imported when a client is opened."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from sqlalchemy.exc import SQLAlchemyError

from orchestrator.errors import TrackingError, first_line
from orchestrator.files.cached_file import cached_content, place_new_file
from orchestrator.files.database_file import require_intact_database
from orchestrator.files.sqlite_files import is_missing_file, sqlite_file, sqlite_uri
from orchestrator.tracking.moved_results import update_artifact_places
from orchestrator.uris import without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

_PORTS = {"http": 80, "https": 443}
_CONNECT_S = 5.0
_MODE = 0o644  # which SQLite gives a new file
_REMEDY = "Move it away: `spatialsweep sync NAME` sends the events of a sweep into a new one"


def silence_mlflow() -> None:
    """Keep MLflow's own notices, and the tracebacks of errors that it raises, out of a sweep's output."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # It logs each refusal of a database with two tracebacks; the error itself is raised, and reported once.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def open_client(tracking_uri: str, *, patient: bool = False) -> MlflowClient:
    """Open the client of a server, or of a database whose folder of results may have been moved.

    Args:
        tracking_uri: Address of the server or database.
        patient: Leave it to the requests of MLflow to find out, after minutes of repetition, that no server is there.

    Raises:
        TrackingError: The file of the database is damaged, or holds something else, or no server takes connections.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    if not patient:
        require_server(tracking_uri)
    refuse_damaged_tracking(tracking_uri)
    update_artifact_places(tracking_uri)
    place_empty_database(tracking_uri)
    try:
        return MlflowClient(tracking_uri)
    except (MlflowException, SQLAlchemyError) as error:
        reason = first_line(error)
        raise TrackingError(f"MLflow at {without_password(tracking_uri)} cannot be used: {reason}") from error


def require_server(tracking_uri: str) -> None:
    """Check within seconds that a server takes connections; other addresses, and servers behind a proxy, pass.

    Args:
        tracking_uri: Address of the server or database.

    Raises:
        TrackingError: Nobody takes a connection there.
    """
    parts = urlsplit(tracking_uri)
    if parts.scheme not in _PORTS or not parts.hostname:
        return
    if parts.scheme in getproxies() and not proxy_bypass(parts.hostname):
        return
    try:
        socket.create_connection((parts.hostname, parts.port or _PORTS[parts.scheme]), timeout=_CONNECT_S).close()
    except OSError as error:
        why = error.strerror or error
        raise TrackingError(
            f"no server answers at {without_password(tracking_uri)} ({why}). Is MLflow running there?"
        ) from None


def refuse_damaged_tracking(tracking_uri: str) -> None:
    """Check the database of the runs, where it is a file.

    Args:
        tracking_uri: Address of the server or database.

    Raises:
        TrackingError: The database is damaged.
    """
    require_intact_database(tracking_uri, TrackingError, _REMEDY)


def place_empty_database(tracking_uri: str) -> None:
    """Copy a prepared database to an address where there is none yet: MLflow's migrations of a new file take a second.

    Without a cache folder that can be written, MLflow creates the database as it would anyway.

    Args:
        tracking_uri: Address of the server or database.
    """
    from mlflow.exceptions import MlflowException

    database = sqlite_file(tracking_uri)
    if database is None or not is_missing_file(tracking_uri):
        return
    try:
        place_new_file(database, cached_content(f"mlflow-{_schema()}.db", _make_empty), mode=_MODE)
    except (OSError, RuntimeError, MlflowException, SQLAlchemyError, sqlite3.Error) as error:
        logger.debug("%s is created without a prepared database: %s", database, error)


def _schema() -> str:
    """Return what the tables depend on: the version of MLflow, and a digest of the names of its migrations."""
    import mlflow

    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    names = sorted(path.name for path in migrations.glob("*.py"))
    return f"{mlflow.__version__}-{hashlib.sha256(os.fsencode(' '.join(names))).hexdigest()[:16]}"


def _make_empty(path: Path) -> None:
    """Let MLflow create a database, and remove the default experiment, whose artifacts would be in another folder."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(sqlite_uri(path), path.with_name("artifacts").as_uri())
    store.engine.dispose()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM experiments")
