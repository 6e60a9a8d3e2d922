"""Reports of a lane's controller to the hub, also while an elastic worker group waits for resources."""

from __future__ import annotations

from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.train.v2._internal.execution.controller import state as states

from orchestrator.lanes.controller import status_reporter as module
from orchestrator.lanes.controller.status_reporter import StatusReporter


class _Hub:
    """Hub that records the names of the methods called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = lambda *_: self.calls.append(name)  # noqa: E731
        method.remote = method  # type: ignore[attr-defined]
        return method


def test_a_controller_pauses_while_its_elastic_group_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    hub = _Hub()
    reporter = StatusReporter(0, hub)
    starting, running = states.InitializingState(), states.RunningState()
    reporter.after_controller_state_update(starting, running)
    reporter.after_controller_state_update(running, states.RunningState())  # Train polls its workers in between
    assert (pauses, hub.calls) == ([], [])
    for _ in range(3):
        reporter.after_controller_state_update(starting, starting)
    assert len(pauses) == 3


def test_a_lost_group_is_reported_in_every_update_of_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    monkeypatch.setattr(module.ray, "get", lambda _: None)
    hub = _Hub()
    gone = states.ReschedulingState(training_failed_error=RuntimeError())  # type: ignore[arg-type]
    StatusReporter(0, hub).after_controller_state_update(states.RunningState(), gone)
    StatusReporter(0, hub).after_controller_state_update(gone, gone)  # a restarted hub has no record of the first
    assert hub.calls == ["group_lost", "group_lost"]


def test_a_report_waits_for_its_answer_unless_the_sweep_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[str] = []

    def get(_: Any) -> None:
        answers.append("asked")
        raise RayActorError

    monkeypatch.setattr(module.ray, "get", get)
    StatusReporter(0, _Hub()).after_controller_state_update(states.RunningState(), states.FinishedState())
    assert answers == ["asked"]
