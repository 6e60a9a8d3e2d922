"""Addresses of tracking servers and databases: which are understood."""

from __future__ import annotations

import re
from pathlib import Path

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")

SQLITE = "sqlite:///"


def scheme_of(uri: str) -> str:
    """The scheme without a database driver: `postgresql` of `postgresql+psycopg2://host/db`."""
    return re.split(r"[:+]", uri, maxsplit=1)[0].lower()


def embedded_uri(runs_dir: Path) -> str:
    """The database MLflow uses when no server is named."""
    return f"{SQLITE}{runs_dir.resolve() / 'mlflow.db'}"
