"""Update of MLflow's database after its folder of results was moved or copied: it stores absolute paths of files."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.errors import TrackingError
from orchestrator.files.sqlite_files import sqlite_file

logger = logging.getLogger(__name__)

_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_WAIT_S = 60.0


def update_artifact_places(tracking_uri: str) -> None:
    """Make a database in a folder of results refer to the artifacts in the same folder, not to its former place.

    A place that a user chose is kept: one that still has the artifacts that the new folder lacks.

    Args:
        tracking_uri: Address of MLflow; only `<folder>/mlflow.db` with `<folder>/artifacts` is updated.

    Raises:
        TrackingError: The file is no database, or refers to a former place and cannot be changed. MLflow itself would
            retry for minutes.
    """
    database = sqlite_file(tracking_uri)
    if database is None:
        return
    if not database.parent.is_dir():
        raise TrackingError(f"{database}: there is no folder {database.parent}; make it, or name another database")
    if not database.is_file():
        return
    artifacts = database.resolve().parent / "artifacts"
    try:
        with _opened(database) as connection:
            for before in _former_places(connection, artifacts):
                with connection:
                    _rename(connection, before, artifacts.as_uri())
                logger.info("%s: artifacts of %s are now those of %s", database, before, artifacts)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise  # temporary
        raise TrackingError(f"{database} cannot be used as MLflow's database: {error}") from None


@contextlib.contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(database, timeout=_WAIT_S)
    try:
        yield connection
    finally:
        connection.close()


def _former_places(connection: sqlite3.Connection, artifacts: Path) -> list[str]:
    """Return the former addresses, in the database, of artifacts that are in the folder now."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
        return []
    if not artifacts.is_dir():
        return []
    query = "SELECT DISTINCT artifact_location FROM experiments WHERE artifact_location LIKE 'file:%/artifacts'"
    places = [str(place) for (place,) in connection.execute(query)]
    return [place for place in places if _path(place) != artifacts and _has_moved(connection, place, artifacts)]


def _has_moved(connection: sqlite3.Connection, place: str, artifacts: Path) -> bool:
    query = "SELECT artifact_uri FROM runs WHERE substr(artifact_uri, 1, ?) = ?"
    found = connection.execute(query, (len(place) + 1, f"{place}/"))
    runs = {str(uri)[len(place) + 1 :].partition("/")[0] for (uri,) in found}
    return not _path(place).is_dir() or any((artifacts / run).is_dir() for run in runs if run)


def _rename(connection: sqlite3.Connection, before: str, now: str) -> None:
    for table, column in _COLUMNS:
        known = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        if column in known:
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 - names of our own
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
            )


def _path(place: str) -> Path:
    return Path(unquote(urlsplit(place).path))
