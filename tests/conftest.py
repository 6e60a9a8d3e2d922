"""Rules for all tests: in the gate a skipped test is a failure."""

from __future__ import annotations

import os

import pytest

_SKIPPED: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remembers what was skipped; on a user's machine that is fine."""
    if report.skipped:
        _SKIPPED.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With FORBID_SKIPS=1 every test must have run."""
    if _SKIPPED and os.environ.get("FORBID_SKIPS") == "1":
        print(f"\nskipped, which the gate forbids: {', '.join(_SKIPPED)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
