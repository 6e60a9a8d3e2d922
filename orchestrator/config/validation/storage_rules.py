"""Rules for the address of Optuna's database."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from orchestrator.config.sections.study import StorageConfig
from orchestrator.errors import Problem, did_you_mean
from orchestrator.server_addresses import truncation_problem
from orchestrator.uris import without_password

_DATABASES = ("sqlite", "postgresql", "mysql")
_DRIVERS = {"postgresql": "psycopg", "postgresql+psycopg": "psycopg", "postgresql+psycopg2": "psycopg2"}


def storage_problems(storage: StorageConfig, tracking_uri: str | None) -> Iterator[Problem]:
    """Yield the problems of the address, without connecting to it; passwords are not shown.

    Args:
        storage: Section `storage`.
        tracking_uri: Address of MLflow, which needs a database of its own: both store the version of their tables in
            the same table.
    """
    if storage.uri is None:
        return
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        address = make_url(storage.uri)
    except (ArgumentError, ValueError):
        shown = without_password(storage.uri)
        yield Problem("storage.uri", f"got {shown!r}; must name a database. Use postgresql://user@host:5432/database")
        return
    kind = address.drivername.partition("+")[0]
    if fault := truncation_problem(storage.uri):
        yield Problem("storage.uri", fault)
    elif kind not in _DATABASES:
        yield Problem("storage.uri", f"unknown database '{kind}'. {did_you_mean(kind, _DATABASES)}")
    elif not address.database:
        yield Problem("storage.uri", f"got {without_password(storage.uri)!r}; names no database. Add /studies to it")
    elif tracking_uri is not None and _place(tracking_uri) == _place(storage.uri):
        shown = without_password(storage.uri)
        yield Problem("storage.uri", f"got {shown!r}, MLflow's database (tracking.uri). Each needs one of its own")
    package = _DRIVERS.get(address.drivername)
    if package is not None and importlib.util.find_spec(package) is None:
        remedy = "pip install 'spatialsweep[postgresql]'" if package == "psycopg" else f"pip install {package}"
        yield Problem("storage.uri", f"PostgreSQL needs a package that is not installed: {remedy}")


def _place(uri: str) -> tuple[str, str | None, int | None, str | None] | None:
    """Return the database that an address names, independent of driver and user; None if it names none."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        address = make_url(uri)
    except (ArgumentError, ValueError):
        return None
    return address.drivername.partition("+")[0], address.host, address.port, address.database
