"""Permanent faults of a tracking server, which no retry mends, and their remedies."""

from __future__ import annotations

import errno
import re
import sys
from typing import Any

from orchestrator.errors import TrackingError, first_line

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP)
_STATUS = re.compile(r"error code (\d{3})")
_CREDENTIALS = (
    "it does not accept your name and password: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
    "MLFLOW_TRACKING_TOKEN"
)
_RIGHTS = "you may not write there: ask for the right to edit the experiment, or name another with tracking.experiment"
_SCHEMA = (
    "its tables are of another version of MLflow. Of an older one: copy the database, then `mlflow db upgrade URI`; "
    "of a newer one: install that version here"
)
_DATABASE = {
    "out-of-date database schema": _SCHEMA,
    "Can't locate revision": _SCHEMA,
    "readonly database": "its database cannot be written: give this user the right to write the file and its folder",
    "unable to open database file": "its database cannot be opened: its folder is missing, or may not be entered",
    "file is not a database": "its database is damaged, or no file of sqlite",
}


def lasting_fault(error: Exception) -> str | None:
    """Return description and remedy of a permanent fault; None where a retry may succeed.

    Args:
        error: Error of a request to MLflow.
    """
    if isinstance(error, TrackingError):
        return lasting_fault(error.__cause__) if isinstance(error.__cause__, Exception) else str(error)
    status = _status(error)
    if status in (401, 403):
        return f"{_CREDENTIALS if status == 401 else _RIGHTS} ({first_line(error)})"
    if _of_mlflow(error) is not None:
        text = str(error)
        return next((f"{remedy} ({first_line(error)})" for part, remedy in _DATABASE.items() if part in text), None)
    if isinstance(error, OSError) and error.errno in _NOT_WRITABLE:
        return f"the folder of its files, {error.filename}, cannot be written: {error.strerror}"
    if isinstance(error, (KeyError, TypeError, AttributeError)):
        return f"the journal does not hold what MLflow needs ({type(error).__name__}: {first_line(error)})"
    return None


def _status(error: Exception) -> int:
    response = getattr(error, "response", None)  # errors of `requests`, which MLflow uses for files
    if response is not None:
        return int(getattr(response, "status_code", 0))
    if (of_mlflow := _of_mlflow(error)) is None:
        return 0
    found = _STATUS.search(str(error))
    return int(found[1]) if found else int(of_mlflow.get_http_status_code())


def _of_mlflow(error: Exception) -> Any | None:
    """Return an error of MLflow; None for another, such as one from before MLflow was imported."""
    exceptions = sys.modules.get("mlflow.exceptions")
    return error if exceptions is not None and isinstance(error, exceptions.MlflowException) else None
