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
import pytest


def test_that_blocks():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    ctypes.PyDLL(None).sleep(600)


@pytest.mark.timeout(60)
def test_after_it():
    pass
"""


def run_pytest(folder: Path, tests: str, *options: str, keys: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\ntimeout = 0.5\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(folder)],
        cwd=ROOT,
        input=keys,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_test_that_blocks_in_foreign_code_fails_and_the_others_run(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, TESTS, "-n", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"worker 'gw0' crashed while running '.*test_it\.py::test_that_blocks'", done.stdout)
    assert "1 failed, 1 passed" in done.stdout
    assert re.search(r'test_it\.py", line \d+ in test_that_blocks', done.stderr)


SLOW = """
import time


def test_it():
    time.sleep(1.5)
    assert False
"""


def test_another_timeout_on_the_command_line_counts_and_a_debugger_has_none(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, SLOW, "--timeout=30")
    assert "1 failed" in done.stdout, done.stdout + done.stderr
    done = run_pytest(tmp_path, SLOW.replace("1.5", "0"), "--pdb", "--timeout=4", keys="time.sleep(5)\nq\n")
    assert "1 failed" in done.stdout, done.stdout + done.stderr
