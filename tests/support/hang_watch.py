"""Plugin that ends a test process whose test ignores its timeout.

pytest-timeout interrupts a test by a signal, whose handler Python runs between two of its own instructions: a test that
blocks in C++ code, such as Ray's, hangs on, and pytest-xdist waits for it forever. This watch needs neither a signal
nor the interpreter. xdist reports the test of a process that has ended as failed, and starts another process.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Iterator
from typing import IO, Any

import pytest

GRACE_S = 60.0
"""Seconds after the timeout of a test, in which it may still end by itself."""

_STDERR: pytest.StashKey[IO[str]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the stderr of the process, in whose place a test has a file."""
    config.stash[_STDERR] = os.fdopen(os.dup(sys.__stderr__.fileno()), "w")  # type: ignore[union-attr]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close it."""
    config.stash[_STDERR].close()


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Iterator[None]:
    """Print the stacks of all threads and end the process where a test takes longer than its timeout by `GRACE_S`.

    pytest-timeout calls this with the timeout of the test, wherever it is set, and not at all where there is none.
    """
    faulthandler.dump_traceback_later(settings.timeout + GRACE_S, exit=True, file=item.config.stash[_STDERR])
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """End the watch after the teardown, also of a test that has failed."""
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_enter_pdb() -> None:
    """End the watch: a person who looks at a test has time."""
    faulthandler.cancel_dump_traceback_later()
