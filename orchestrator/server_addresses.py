"""Addresses of tracking servers and databases: supported schemes, and passwords that would be cut short."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.errors import ConfigError, Problem
from orchestrator.files.sqlite_files import sqlite_uri
from orchestrator.uris import without_password, without_user

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def scheme_of(uri: str) -> str:
    """Return the scheme without a database driver: `postgresql` for `postgresql+psycopg2://host/db`."""
    return re.split(r"[:+]", uri, maxsplit=1)[0].lower()


def names_server(uri: str) -> bool:
    """Return whether an address has a scheme that MLflow knows and, of a web server, a host and a possible port."""
    if scheme_of(uri) not in ("http", "https"):
        return scheme_of(uri) in SCHEMES
    try:
        parts = urlsplit(uri)
        return bool(parts.hostname) and parts.port != 0 and re.search(r"\s", uri) is None
    except ValueError:
        return False


def truncation_problem(uri: str) -> str:
    """Return the problem of an address whose password would be cut short, so that another server would be used.

    Args:
        uri: Address of a server or a database.

    Returns:
        Problem and remedy as text; empty without one.
    """
    if "://" not in uri or uri.startswith("sqlite"):
        return ""
    try:
        same = _host(uri) == _host(without_user(uri))
    except ValueError:
        same = False
    remedy = "Write such characters of a password percent-encoded: / as %2F, # as %23, ? as %3F, @ as %40, [ as %5B"
    return "" if same else f"got {without_password(uri)!r}, whose password would be cut short. {remedy}"


def require_readable(uri: str | None) -> None:
    """Check that the password in an address of MLflow is not cut short.

    Raises:
        ConfigError: The address would be split in the wrong place.
    """
    if uri is not None and (fault := truncation_problem(uri)):
        raise ConfigError([Problem("--tracking-uri", fault)])


def _host(uri: str) -> str | None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if scheme_of(uri) in ("http", "https"):
        return urlsplit(uri).hostname
    try:
        return make_url(uri).host
    except ArgumentError:
        return None


def embedded_uri(runs_dir: Path) -> str:
    """Return the database that MLflow uses where no server is named."""
    return sqlite_uri(runs_dir / "mlflow.db")


def embedded_study_uri(runs_dir: Path) -> str:
    """Return the database that holds the studies where none is named."""
    return sqlite_uri(runs_dir / "optuna.db")
