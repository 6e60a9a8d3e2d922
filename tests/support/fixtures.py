"""Fixtures that start a program of a test's own and end it afterwards; `tests/conftest.py` loads them for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import Browser, chromium, open_browser
from tests.support.servers.mlflow_server import MlflowServer
from tests.support.servers.postgresql import PostgresqlServer, postgresql_server, server_programs


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgresqlServer]:
    """Start a PostgreSQL server with an empty database; the tests of a module share it."""
    if server_programs() is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    with postgresql_server() as server:
        yield server


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[MlflowServer]:
    """Start an MLflow server over a database in the test's folder."""
    folder = tmp_path / "server"
    folder.mkdir()
    server = MlflowServer(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a headless Chromium; the tests of a module share its page."""
    if chromium() is None:
        pytest.skip("no chromium here; Debian has it in a package of that name")
    with open_browser() as page:
        yield page
