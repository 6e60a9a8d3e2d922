"""Rules for all tests: in the gate a skipped test is a failure, and Ctrl-C means what it does in a terminal."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest
import torch

_SKIPPED: list[str] = []


def pytest_configure() -> None:
    """A script's background job ignores Ctrl-C, and so would every command that a test starts and interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that start Ray first: the many short ones then keep every process busy to the end."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


def pytest_collection_finish() -> None:
    """Spare each trial a look through all that was imported, as a lane's worker does: it takes up to a second."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let what was imported be torn down."""
    gc.unfreeze()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remembers what was skipped; on a user's machine that is fine."""
    if report.skipped:
        _SKIPPED.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With FORBID_SKIPS=1 every test must have run."""
    if _SKIPPED and os.environ.get("FORBID_SKIPS") == "1":
        print(f"\nskipped, which the gate forbids: {', '.join(_SKIPPED)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True, scope="session")
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Settings of the user's own, such as the servers they have named, are not those of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread: for small networks a second one costs more than it brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
