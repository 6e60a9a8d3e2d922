"""Check of an embedded database whose last writer was killed in the middle of a transaction."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import StorageError
from orchestrator.files.database_file import require_intact_database

KILLED_WRITER = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 1")  # pages reach the file before the transaction ends
db.execute("BEGIN")
db.execute("DELETE FROM t")
db.executemany("INSERT INTO t VALUES (?)", [("new" * 500,)] * 200)
os._exit(9)
"""


@pytest.fixture
def left_behind(tmp_path: Path) -> Path:
    """Return a database with 100 rows and the journal of a transaction that did not end."""
    file = tmp_path / "studies.db"
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE t (text)")
        db.executemany("INSERT INTO t VALUES (?)", [("old" * 500,)] * 100)
    db.close()
    subprocess.run([sys.executable, "-c", KILLED_WRITER, file], check=False, timeout=60)
    assert file.with_name("studies.db-journal").stat().st_size > 0
    return file


def test_a_transaction_that_did_not_end_is_rolled_back(left_behind: Path) -> None:
    with sqlite3.connect(f"{left_behind.as_uri()}?mode=ro", uri=True) as db, pytest.raises(sqlite3.OperationalError):
        db.execute("PRAGMA quick_check(1)")
    db.close()
    require_intact_database(f"sqlite:///{left_behind}", StorageError, "Move it away")
    with sqlite3.connect(left_behind) as db:
        assert db.execute("SELECT count(*), min(text) = max(text) FROM t").fetchone() == (100, 1)
    db.close()
    assert not left_behind.with_name("studies.db-journal").exists()
