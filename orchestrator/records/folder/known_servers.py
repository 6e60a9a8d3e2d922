"""List of servers and databases that this user has named, on the command line or in their own sweep files.

A journal may come from somebody else, and MLflow's client sends the credentials of the environment to any server it
is pointed at. An address that only a journal names is therefore used only if it is in this list. See decision 0011.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from orchestrator.files.sqlite_files import sqlite_file
from orchestrator.uris import without_password, without_user

logger = logging.getLogger(__name__)


def note_server(uri: str) -> None:
    """Add an address that the user has named to the list, without user and password.

    Args:
        uri: Address of a server or a database.
    """
    if is_known(uri):
        return
    path = _list_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(f"{_identity(uri)}\n")
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s): %s has to be named again when the sweep is resumed",
            path,
            error.strerror,
            without_password(uri),
        )


def is_known(uri: str) -> bool:
    """Return whether the user has named an address, here or in MLFLOW_TRACKING_URI."""
    named = [*_read(), *([_identity(own)] if (own := os.environ.get("MLFLOW_TRACKING_URI")) else [])]
    return _identity(uri) in named


def _read() -> list[str]:
    path = _list_path()
    try:
        with path.open(encoding="utf-8") as file:
            facts = os.fstat(file.fileno())
            if facts.st_uid != os.getuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                logger.warning("%s is not used: others may write to it. Use `chmod 600 %s`", path, path)
                return []
            return file.read().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        logger.warning("%s cannot be read: %s", path, error)
        return []


def _list_path() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "spatialsweep" / "servers"


def _identity(uri: str) -> str:
    """Return the normal form of an address, without user and password."""
    path = sqlite_file(uri)
    if path is not None:
        return f"sqlite:///{path}"
    try:
        parts = urlsplit(without_user(without_password(uri)))
        whole = urlunsplit(parts._replace(scheme=parts.scheme.lower(), netloc=parts.netloc.lower()))
    except ValueError:  # not an address
        whole = uri
    return " ".join(whole.split()).rstrip("/")
