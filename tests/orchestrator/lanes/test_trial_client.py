"""Client of a trial between Tune and a hub that answers from a list."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import cloudpickle

from orchestrator.lanes import trial_client as client_module
from orchestrator.lanes.messages import Outcome, Report, TrialAssignment, TrialOutcome
from orchestrator.lanes.trial_client import TrialClient, client_of_sweep
from orchestrator.lanes.tune_keys import ENDED, EPOCH, EPOCHS_DONE, FAILURES, HELD, TRIAL
from orchestrator.lanes.weight_transfer import WeightTransfer, take_checkpoints


class _Hub:
    """Hub that records its calls and answers in turn; `ray.get` is the identity here."""

    def __init__(self, answers: Sequence[Any]) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[Any, ...]] = []
        self.assignment: TrialAssignment | None = None

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=functools.partial(self._answer, name))

    def _answer(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.assignment = next((arg for arg in args if isinstance(arg, TrialAssignment)), self.assignment)
        self.calls.append((name, *(arg for arg in args if not isinstance(arg, TrialAssignment)), *kwargs.values()))
        return self.answers.pop(0)


def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: Sequence[Any]) -> tuple[TrialClient, _Hub]:
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    hub = _Hub(answers)
    made = object.__new__(TrialClient)
    made._trial_info = SimpleNamespace(trial_id="t7")
    config = {"number": 7, "training": {"epochs": 4, "lr": 0.1}}
    made.setup({TRIAL: config, EPOCHS_DONE: 0, FAILURES: 0}, hub=hub, trials_folder=str(tmp_path), metric="val/top1")
    return made, hub


def report(epoch: int) -> Report:
    return Report(epoch, {"val/top1": epoch / 10}, lane=1)


def leave_transfer(tmp_path: Path, epoch: int) -> Path:
    """Leave the note of a transfer for trial 7 and return the folder of that trial."""
    folder, donor = tmp_path / "trial-00007", tmp_path / "trial-00003"
    folder.mkdir(exist_ok=True)
    donor.mkdir()
    for name in ("best.pt", "last.pt"):
        (donor / name).write_text("donor")
    take_checkpoints(donor, folder)
    config = {"number": 7, "training": {"epochs": 4, "lr": 0.2}}
    WeightTransfer(donor=str(donor), config=config, epoch=epoch, change=1).write(folder)
    return folder


def test_the_class_of_a_sweep_brings_what_its_actors_need(tmp_path: Path) -> None:
    made = cloudpickle.loads(cloudpickle.dumps(client_of_sweep("hub", tmp_path, "val/top1")))
    actor = object.__new__(made)
    actor.setup({TRIAL: {"number": 7}, EPOCHS_DONE: 2, FAILURES: 0})
    assert (actor._hub, actor._trials_folder, actor._metric, actor._epoch) == ("hub", tmp_path, "val/top1", 2)


def test_a_trial_yields_its_lane_and_resumes_from_another_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, hub = client(tmp_path, monkeypatch, [1, report(2), True, 0, report(4)])
    assert trial.step()[EPOCH] == 2

    folder = leave_transfer(tmp_path, epoch=3)
    result = trial.step()
    assert (result[EPOCH], result["done"]) == (4, True)  # epoch 3 was the donor's
    assert hub.calls == [
        ("lease",),
        ("next_event", 1, 0),
        ("yield_lane", "t7", True),
        ("lease",),
        ("next_event", 0, 3),
    ]
    assert hub.assignment.config["training"]["lr"] == 0.2
    assert (folder / "last.pt").read_text() == "donor"

    trial.reset_config({TRIAL: {"number": 7, "training": {"epochs": 4, "lr": 0.1}}, EPOCHS_DONE: 4, FAILURES: 1})
    hub.answers = [0, TrialOutcome(Outcome.STOPPED)]  # another actor in its place
    assert trial.step()[ENDED] == "stopped"
    assert hub.assignment.config["training"]["lr"] == 0.2
    assert hub.assignment.failures == 1


def test_an_actor_in_the_place_of_one_that_died_takes_the_trial_off_its_lane_before_a_transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, hub = client(tmp_path, monkeypatch, [True, 0, report(3)])
    leave_transfer(tmp_path, epoch=2)
    assert trial.step()[EPOCH] == 3
    assert hub.calls == [("yield_lane", "t7", True), ("lease",), ("next_event", 0, 2)]


def test_a_transfer_is_carried_out_once_it_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial, hub = client(tmp_path, monkeypatch, [1, report(2), True, True])
    trial.step()
    folder = leave_transfer(tmp_path, epoch=2)
    note = WeightTransfer.read(folder)
    assert note is not None
    replace(note, waits=True).write(folder)
    assert trial.step()[ENDED] == "interrupted"
    assert hub.calls[2:] == [("yield_lane", "t7", False), ("is_ending",)]
    assert not (folder / "last.pt").exists()


def test_the_time_on_lanes_is_that_of_the_hub_which_a_restarted_one_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, hub = client(tmp_path, monkeypatch, [1, replace(report(1), held_s=60.0), replace(report(2), held_s=90.0)])
    assert trial.step()[HELD] == 60.0
    assert trial.step()[HELD] == 90.0
    assert hub.assignment is not None
    assert hub.assignment.held_s == 60.0


def test_a_trial_keeps_a_lane_for_which_no_other_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial, hub = client(tmp_path, monkeypatch, [1, report(1), False, report(2)])
    trial.step()
    WeightTransfer().write(tmp_path / "trial-00007")
    assert trial.step()[EPOCH] == 2
    assert [call[0] for call in hub.calls] == ["lease", "next_event", "yield_lane", "next_event"]
    assert WeightTransfer.read(tmp_path / "trial-00007") is None


def test_a_trial_waits_until_the_sweep_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_POLL_S", 0.0)
    trial, hub = client(tmp_path, monkeypatch, [1, report(1), False, False, True, True])
    trial.step()
    WeightTransfer(waits=True).write(tmp_path / "trial-00007")
    assert trial.step()[ENDED] == "interrupted"
    assert [call[0] for call in hub.calls[2:]] == ["yield_lane", "is_ending", "yield_lane", "is_ending"]
    assert WeightTransfer.read(tmp_path / "trial-00007") == WeightTransfer(waits=True)
