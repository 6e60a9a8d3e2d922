"""Addresses of tracking servers and databases: which are understood."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.errors import ConfigError, Problem
from orchestrator.files.sqlite_files import sqlite_uri
from orchestrator.uris import without_password, without_user

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def scheme_of(uri: str) -> str:
    """The scheme without a database driver: `postgresql` of `postgresql+psycopg2://host/db`."""
    return re.split(r"[:+]", uri, maxsplit=1)[0].lower()


def misread(uri: str) -> str:
    """Why another host would be asked than is meant: its password ends too soon; empty where it does not.

    Args:
        uri: Of a server or a database.
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
    """Refuses the address of a server that would be taken apart in the wrong place.

    Raises:
        ConfigError: It is one.
    """
    if uri is not None and (fault := misread(uri)):
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
