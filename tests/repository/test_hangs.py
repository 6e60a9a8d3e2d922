"""A test that no signal reaches ends with its process, and is named."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = """
from tests.support import hang_watch

hang_watch.GRACE_S = 0.5
pytest_plugins = ["tests.support.hang_watch"]
"""
# The interpreter is not released, so that neither the handler of a signal nor another thread runs.
TESTS = """
import ctypes
import signal


def test_that_blocks():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    ctypes.PyDLL(None).sleep(600)


def test_after_it():
    pass
"""


def test_a_test_that_blocks_in_foreign_code_fails_and_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntimeout = 0.5\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"worker 'gw0' crashed while running '.*test_it\.py::test_that_blocks'", done.stdout)
    assert "1 failed, 1 passed" in done.stdout
    assert re.search(r'test_it\.py", line \d+ in test_that_blocks', done.stderr)
