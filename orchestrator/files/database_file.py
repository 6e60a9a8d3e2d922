"""Check that the file of an embedded database is intact before reading or writing it."""

from __future__ import annotations

import contextlib
import sqlite3

from orchestrator.errors import SpatialSweepError
from orchestrator.files.sqlite_files import sqlite_path

_PATIENCE_S = 60.0


def require_intact_database(uri: str, error: type[SpatialSweepError], remedy: str) -> None:
    """Check the file of a database; one on a server, or that is not there yet, is left alone.

    Args:
        uri: Address of the database.
        error: What is raised.
        remedy: What to do, as a sentence without its stop.

    Raises:
        SpatialSweepError: Of the class `error`: it is no database, or was cut short or altered.
    """
    path = sqlite_path(uri)
    if path is None or not path.exists():
        return
    try:
        location = f"{path.resolve().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(location, uri=True, timeout=_PATIENCE_S)) as db:
            found = [str(row[0]) for row in db.execute("PRAGMA quick_check(1)")]
    except sqlite3.OperationalError as fault:
        if "locked" in str(fault) or "busy" in str(fault):  # someone is writing to it, so that it can be read
            return
        raise error(f"{path}: cannot be read ({fault})") from None
    except sqlite3.DatabaseError as fault:
        found = [str(fault)]
    if found != ["ok"]:
        reason = " ".join(" ".join(found).split())
        raise error(f"{path}: is damaged ({reason}). {remedy}")
