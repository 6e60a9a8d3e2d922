"""Signals that ask a sweep to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from orchestrator.sweep.signals import SignalWatch


@pytest.fixture(autouse=True)
def _hangups_are_not_ignored() -> Iterator[None]:
    """Undo what `nohup` does for the process of the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("sent", "urgent"),
    [
        ([signal.SIGINT], False),
        ([signal.SIGINT, signal.SIGINT], True),
        ([signal.SIGTERM], True),
        ([signal.SIGHUP], True),
    ],
)
def test_a_signal_requests_a_stop(sent: list[signal.Signals], urgent: bool) -> None:
    before = [signal.getsignal(number) for number in sent]
    with SignalWatch() as watch:
        assert not watch.stop_requested
        for number in sent:
            os.kill(os.getpid(), number)
        assert (watch.stop_requested, watch.urgent) == (True, urgent)
    assert [signal.getsignal(number) for number in sent] == before


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with SignalWatch() as watch:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not watch.stop_requested
