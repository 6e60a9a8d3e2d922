"""What the controller of a lane does while its elastic worker group waits for resources."""

from __future__ import annotations

from typing import Any

import pytest
from ray.train.v2._internal.execution.controller import state as states

from orchestrator.lanes.controller import status_reporter as announcer_module
from orchestrator.lanes.controller.status_reporter import StatusReporter


class _Hub:
    """Notes the names of the methods that are called."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = lambda *_: self.heard.append(name)  # noqa: E731
        method.remote = method  # type: ignore[attr-defined]
        return method


def test_a_controller_pauses_while_its_elastic_group_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(announcer_module.time, "sleep", pauses.append)
    hub = _Hub()
    announcer = StatusReporter(0, hub)
    starting, running = states.InitializingState(), states.RunningState()
    announcer.after_controller_state_update(starting, running)
    announcer.after_controller_state_update(running, states.RunningState())  # Train polls its workers in between
    assert (pauses, hub.heard) == ([], [])
    for _ in range(3):
        announcer.after_controller_state_update(starting, starting)
    assert len(pauses) == 3


def test_a_group_that_is_gone_is_told_whenever_its_controller_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcer_module.time, "sleep", lambda _: None)
    hub = _Hub()
    gone = states.ReschedulingState(training_failed_error=RuntimeError())  # type: ignore[arg-type]
    StatusReporter(0, hub).after_controller_state_update(states.RunningState(), gone)
    StatusReporter(0, hub).after_controller_state_update(gone, gone)  # a hub that was restarted has not heard the first
    assert hub.heard == ["group_lost", "group_lost"]
