"""Settings of all tests; with FORBID_SKIPS=1 a skipped test is a failure."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Iterator

import pytest
import torch

pytest_plugins = ["tests.support.fixtures", "tests.support.hang_watch"]

_SKIPPED: list[str] = []
_SLOW_S = 0.1
_THRESHOLDS = 20_000, 20, 20
"""Of garbage collections during tests. Python's 700, 10, 10 take a tenth of the time of tests that build networks."""


class _GarbageCollection:
    """Processor time of the latest full collection of this process."""

    def __init__(self) -> None:
        self._began_s = 0.0
        self.took_s = 0.0

    def note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began_s = time.process_time()
        elif info["generation"] == 2:
            self.took_s = time.process_time() - self._began_s


_GARBAGE_COLLECTION = _GarbageCollection()


def pytest_configure() -> None:
    """Restore the handler of Ctrl-C, which a background job ignores, and share the cores among test processes."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.set_threshold(200_000, 100, 1_000)  # until the tests have been imported: nothing of that is garbage
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that take minutes, unless `-m` names them; put those that start Ray first, then slow ones.

    Many short ones at the end keep every process busy.
    """
    if "long" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if not item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("ray", "slow")])


def pytest_collection_finish() -> None:
    """Spare each trial a look through all that was imported, as a lane's worker does: it takes up to a second."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    gc.callbacks.append(_GARBAGE_COLLECTION.note)


def pytest_runtest_logstart() -> None:
    """Do the same between two tests, after others have imported more."""
    if _GARBAGE_COLLECTION.took_s > _SLOW_S:
        gc.collect()
        gc.freeze()
        _GARBAGE_COLLECTION.took_s = 0.0


def pytest_unconfigure() -> None:
    """Let what was imported be torn down."""
    if _GARBAGE_COLLECTION.note in gc.callbacks:
        gc.callbacks.remove(_GARBAGE_COLLECTION.note)
    gc.unfreeze()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record skipped tests, which are allowed on a user's machine."""
    if report.skipped:
        _SKIPPED.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail with FORBID_SKIPS=1 when a test was skipped."""
    if _SKIPPED and os.environ.get("FORBID_SKIPS") == "1":
        print(f"\nskipped, which the gate forbids: {', '.join(_SKIPPED)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True, scope="session")
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the settings of the user, such as the servers they have named, from the tests.

    Ray runs its workers at niceness 15 by default: beside another test process they would hardly get a core. It also
    starts a worker for each core ahead, which hardly any test uses.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_prestart_worker_first_driver", "0")
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Run torch on one thread, which is faster for small networks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
