"""Addresses of tracking servers and databases: which are understood, and how they are shown."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")

SQLITE = "sqlite:///"
_SQLITE_FILE = re.compile(r"sqlite(?:\+\w+)?:///([^?\x00]+)", re.IGNORECASE)


def scheme_of(uri: str) -> str:
    """The scheme without a database driver: `postgresql` of `postgresql+psycopg2://host/db`."""
    return re.split(r"[:+]", uri, maxsplit=1)[0].lower()


def without_password(uri: str) -> str:
    """The same address, fit for logs and records."""
    parts = urlsplit(uri)
    query = re.sub(r"(^|&)((?:ssl)?password=)[^&]*", r"\1\2***", parts.query)
    if query != parts.query:
        uri = uri.replace(parts.query, query)  # whole, for a URI put together again may lose slashes
    if parts.password is None:
        return uri
    parts, host = urlsplit(uri), parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))


def without_user(uri: str) -> str:
    """The same address, for a browser: it asks for name and password itself."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def embedded_uri(runs_dir: Path) -> str:
    """The database MLflow uses when no server is named."""
    return f"{SQLITE}{runs_dir.resolve() / 'mlflow.db'}"


def sqlite_file(uri: str) -> Path | None:
    """Return the file of an address of sqlite, absolute, links not followed; None for any other address.

    An address with options, which may name another file, is none of a file.
    """
    found = _SQLITE_FILE.fullmatch(uri)
    return None if found is None else Path(os.path.abspath(found[1]))  # noqa: PTH100 - `resolve` follows links
