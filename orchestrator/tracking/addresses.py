"""Addresses of tracking servers and databases: which are understood, and how they are shown."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from orchestrator.sqlite_files import sqlite_uri

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


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
    return sqlite_uri(runs_dir / "mlflow.db")
