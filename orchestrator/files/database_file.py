"""Check of an embedded database file before it is read or written."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from orchestrator.errors import SpatialSweepError
from orchestrator.files.sqlite_files import sqlite_path

_PATIENCE_S = 60.0
_PRIMARY_CODE = 0xFF  # of an extended one


def require_intact_database(uri: str, error: type[SpatialSweepError], remedy: str) -> None:
    """Check the file of a database; a database on a server, or a file that does not exist yet, passes.

    Args:
        uri: Address of the database.
        error: Class of the error.
        remedy: Remedy for the error, as a sentence without its full stop.

    Raises:
        SpatialSweepError: An instance of `error`: the file is not a database, or was truncated or altered.
    """
    path = sqlite_path(uri)
    if path is None or not path.exists():
        return
    try:
        found = _quick_check(path)
    except sqlite3.OperationalError as fault:
        if "locked" in str(fault) or "busy" in str(fault):  # another process is writing to it, so it is readable
            return
        raise error(f"{path}: cannot be read ({fault})") from None
    except sqlite3.DatabaseError as fault:
        found = [str(fault)]
    if found != ["ok"]:
        reason = " ".join(" ".join(found).split())
        raise error(f"{path}: is damaged ({reason}). {remedy}")


def _quick_check(path: Path) -> list[str]:
    """Return what SQLite finds wrong with a file, or `ok`.

    A process that was killed in the middle of a transaction leaves a journal, from which the first one that may write
    restores the file.
    """
    for mode in ("ro", "rw"):
        location = f"{path.resolve().as_uri()}?mode={mode}"
        with contextlib.closing(sqlite3.connect(location, uri=True, timeout=_PATIENCE_S)) as db:
            try:
                return [str(row[0]) for row in db.execute("PRAGMA quick_check(1)")]
            except sqlite3.OperationalError as fault:
                if mode == "rw" or fault.sqlite_errorcode & _PRIMARY_CODE != sqlite3.SQLITE_READONLY:
                    raise
    raise AssertionError("the second mode returns or raises")
