"""Addresses of SQLite databases, built and parsed by SQLAlchemy, since a folder may have any name."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from orchestrator.errors import StorageError

_SCHEME = "sqlite"
_WITH_DRIVER = "sqlite+pysqlite"
_NO_TEXT = ("Cc", "Cs")  # control characters, and bytes that are not UTF-8


def sqlite_uri(path: Path) -> str:
    """Return the address of a database file.

    Args:
        path: Path of the file; links are followed.

    Raises:
        StorageError: The path cannot be written as an address, for instance because it is not text.
    """
    from sqlalchemy import URL

    resolved = path.resolve()
    if not any(unicodedata.category(character) in _NO_TEXT for character in str(resolved)):
        uri = URL.create(_SCHEME, database=str(resolved)).render_as_string()
        if not uri.endswith(str(resolved)):  # percent-encoded; with `sqlite:///` MLflow would also create that folder
            uri = URL.create(_WITH_DRIVER, database=str(resolved)).render_as_string()
        if sqlite_path(uri) == resolved:
            return uri
    raise StorageError(f"{str(resolved)!r}: no database can be named there. Choose a folder with a plain name")


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an address; None for a server, a database in memory, or a text that is not an address.

    Args:
        uri: Address as SQLAlchemy writes it.
    """
    if not uri.startswith(_SCHEME):
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        address = make_url(uri)
    except (ArgumentError, ValueError):
        return None
    is_file = address.get_backend_name() == _SCHEME and address.database not in (None, "", ":memory:")
    return Path(str(address.database)) if is_file else None


def sqlite_file(uri: str) -> Path | None:
    """Return the file of an address without options, absolute, links not followed; None for any other address.

    Args:
        uri: Untrusted address, whose options could name another file.
    """
    path = sqlite_path(uri)
    return None if path is None or "?" in uri.partition(str(path))[2] else Path(os.path.abspath(path))  # noqa: PTH100


def is_missing_file(uri: str) -> bool:
    """Return whether an address names a database file that does not exist; connecting would create it."""
    path = sqlite_path(uri)
    return path is not None and not path.exists()
