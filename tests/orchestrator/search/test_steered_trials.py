"""Sweeps that are steered while they run, on simulated lanes: stopped and paused trials, changed spaces."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState

from orchestrator import load_sweep
from orchestrator.config.plans import resolve_plans
from orchestrator.lanes.tune_keys import EPOCH, FAILURES, HELD, LANE, NODES, REPORTED, TRIAL
from orchestrator.records.budget import Budget
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.history import read_begun
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.records.settings.stored_config import complete_settings
from orchestrator.search.schedulers.trial_schedulers import create_trial_scheduler
from orchestrator.search.searcher import FINISHED
from orchestrator.search.study import close_study
from orchestrator.search.tune_run import TuneRun
from orchestrator.steering.request_folder import RequestFolder
from orchestrator.steering.requests import REQUESTS, Answer
from orchestrator.sweep.compatibility import steered_again, stored_config
from orchestrator.sweep.signals import SignalWatch
from orchestrator.sweep.steering.steering import Steering
from orchestrator.sweep.study_setup import set_up_study
from tests.orchestrator.search.test_pauses import metrics, tune_trial

SWEEP: dict[str, Any] = {
    "name": "s",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "training": {"epochs": 6},
    "trials": 4,
    "search": {
        "optimizer": ["sgd", "adamw", "momentum"],
        "lr": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True},
    },
    "try_first": [],
    "sampler": {"name": "tpe", "startup_trials": 3},
    "trial_scheduler": {"name": "none"},
}


class TuneTrial(SimpleNamespace):
    __hash__ = object.__hash__  # schedulers have trials as keys


class HubCalls:
    """Hub that notes the calls of the driver, which waits for no answer."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: self.calls.append((name, *arguments)))


class Session:
    """A driver without Ray, which reads requests; its lanes report in turn."""

    def __init__(self, runs_dir: Path, **changes: Any) -> None:
        folder = SweepFolder(runs_dir / "s")
        folder.path.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(folder.journal)
        self.ledger = Ledger(self.journal)
        resumed = self.ledger.sessions > 0
        given = {**SWEEP, **changes, "runs_dir": str(runs_dir)}
        config = stored_config(folder, contacted=()) if resumed else load_sweep(given)
        settings = complete_settings(config)
        if resumed:
            self.ledger.sweep_resumed(settings, {}, dict(self.ledger.identity or {}))
        else:
            self.ledger.sweep_started("s", settings, {}, {"search space": config.space.fingerprint})
        plans = resolve_plans(config)
        objectives = Objectives.of(plans.search.objectives, ())
        self.study = set_up_study(plans, self.ledger, objectives, lambda _: None)
        self.hub = HubCalls()
        self.search = TuneRun(
            plans.search,
            folder,
            self.study,
            self.ledger,
            objectives=objectives,
            hub=self.hub,
            lanes=2,
            has_room=lambda _: True,
            say=lambda _: None,
            most_paused=10,
            let_go=lambda _: None,
        )
        self.scheduler = create_trial_scheduler(plans.search, self.ledger, folder, self.search._allocation)
        self.scheduler.set_search_properties("val/top1", "max")
        self.budget, self.signals, self.plan = Budget(plans.budget, plans.search.objective), SignalWatch(), plans.search
        self.steering = Steering(
            config,
            plans.search,
            folder,
            self.ledger,
            self.search,
            budget=self.budget,
            signals=self.signals,
            changed=lambda plan: setattr(self, "plan", plan),
            say=lambda _: None,
        )
        self.requests = RequestFolder(folder)
        self.ids = (f"{self.ledger.sessions}-{count}" for count in itertools.count())
        self.running: list[Any] = []
        self.finished = False

    def request(self, **content: Any) -> Answer:
        number = self.requests.send(REQUESTS.validate_python(content))
        self.steering.poll()
        answer = self.requests.wait(number, 0.0)
        assert answer is not None
        return answer

    def fill(self, lanes: int = 2) -> None:
        """Give trials to free lanes, as Tune does."""
        while len(self.running) < lanes and not self.finished:
            found = self.search._searcher.suggest(tune_id := next(self.ids))
            self.finished = found == FINISHED
            if not isinstance(found, dict):
                return
            self.running.append(trial := TuneTrial(**vars(tune_trial(tune_id, found))))
            self.scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]

    def epoch(self, lanes: int = 2) -> None:
        """Let every running trial train an epoch."""
        self.fill(lanes)
        for trial in list(self.running):
            trial.epoch += 1
            values = metrics(trial.config[TRIAL]["training"]["lr"], trial.epoch)
            result = {
                REPORTED: tuple(values.items()),
                EPOCH: trial.epoch,
                HELD: 1.0,
                LANE: 0,
                NODES: (),
                FAILURES: 0,
                **values,
            }
            stops = trial.epoch >= self.plan.max_epochs or self.search._stopper(trial.trial_id, result)
            decision = "STOP" if stops else self.scheduler.on_trial_result(None, trial, result)  # type: ignore[arg-type]
            self.search._callback.on_trial_result(0, [], trial, result)
            trial.last_result = result
            if decision == "STOP":
                self.running.remove(trial)
                self.search._searcher.release(trial.trial_id)
                self.search._callback.on_trial_complete(0, [], trial)
                self.scheduler.on_trial_complete(None, trial, result)  # type: ignore[arg-type]

    def run(self, lanes: int = 2) -> None:
        for _ in range(1000):
            self.epoch(lanes)
            if self.finished and not self.running:
                return
        raise AssertionError("the search does not end")

    def status(self, number: int) -> TrialStatus:
        return self.ledger.trial(number).status

    def close(self) -> None:
        self.search.end("the sweep was interrupted")
        close_study(self.study)
        self.journal.close()


@pytest.mark.parametrize("scheduler", ["none", "asha", "pasha", "freeze_thaw", "asha_stopping", "median"])
def test_a_paused_trial_stays_paused_until_it_is_resumed(tmp_path: Path, scheduler: str) -> None:
    session = Session(tmp_path, trial_scheduler={"name": scheduler, "grace_epochs": 3})
    session.epoch()
    assert session.request(kind="pause", trial=0).text.startswith("trial 0 is paused at its next report")
    session.epoch()
    assert (session.status(0), session.ledger.trial(0).epochs) == (TrialStatus.PAUSED, 2)
    for _ in range(3):
        session.epoch()
    assert session.ledger.trial(0).epochs == 2
    assert session.request(kind="pause", trial=0) == Answer(done=False, text="trial 0 is paused already")

    assert session.request(kind="resume", trial=0).done
    session.run()
    epochs = [report["epoch"] for report in session.ledger.trial(0).reports]
    assert epochs == [*range(1, epochs[-1] + 1)]
    assert epochs[-1] > 2
    assert session.ledger.trial(0).attempts > 1
    assert len(session.ledger.trials()) == 4 or scheduler == "freeze_thaw"  # which has a budget of epochs of its own
    session.close()


@pytest.mark.parametrize("scheduler", ["none", "asha"])
def test_a_pause_outlives_the_session_and_ends_when_nothing_else_is_left(tmp_path: Path, scheduler: str) -> None:
    changes = {"trial_scheduler": {"name": scheduler, "grace_epochs": 3, "reduction_factor": 2}}
    session = Session(tmp_path, **changes)
    session.epoch()
    session.request(kind="pause", trial=0)  # it has no effect before this driver ends
    session.close()

    session = Session(tmp_path)
    assert session.status(0) is TrialStatus.PAUSED
    session.run()
    assert (session.status(0), session.ledger.trial(0).epochs) == (TrialStatus.PAUSED, 1)
    assert len(session.ledger.trials()) == 4
    session.close()

    session = Session(tmp_path)
    session.run()
    assert session.ledger.trial(0).epochs > 1
    session.close()


def test_a_stopped_trial_is_over_wherever_it_was(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.epoch()
    assert session.request(kind="stop", trial=0).text == "trial 0 is stopped at its next report; its results stay"
    session.epoch()
    session.request(kind="pause", trial=1)
    session.epoch()
    assert session.request(kind="stop", trial=1).text == "trial 1 is stopped after 3 epochs; its results stay"
    for number in (0, 1):
        record = session.ledger.trial(number)
        assert (record.status, record.reason) == (TrialStatus.PRUNED, "stopped by the user")
        stored = session.study.get_trials()[number]
        assert (stored.state, stored.user_attrs["reason"]) == (TrialState.PRUNED, "stopped by the user")
    assert session.request(kind="stop", trial=0).text == "trial 0 has ended already: stopped early"
    assert session.request(kind="resume", trial=0).text == "trial 0 has ended already: stopped early"
    assert session.request(kind="stop", trial=9).text.startswith("sweep 's' has no trial 9. Running or paused: 2")
    session.request(kind="stop", trial=2)  # this driver ends before its next report
    session.close()

    session = Session(tmp_path)
    assert session.status(2) is TrialStatus.PRUNED
    session.run()
    assert session.status(3) is TrialStatus.FINISHED
    assert len(session.ledger.trials()) == 4
    session.close()


def test_more_trials_train_while_some_are_running(tmp_path: Path) -> None:
    session = Session(tmp_path, trials=2)
    session.epoch()
    assert session.request(kind="set", assignments=["trials=3", "budget.patience=7"]).done
    assert session.budget.limits.patience == 7
    session.run()
    assert [record.status for record in session.ledger.trials()] == [TrialStatus.FINISHED] * 3
    session.close()
    assert Session(tmp_path).plan.trials == 3


def test_more_trials_and_epochs_reach_the_allocation_rule(tmp_path: Path) -> None:
    session = Session(tmp_path, trials=2, trial_scheduler={"name": "asha", "grace_epochs": 3}, budget={"epochs": 10})
    session.epoch()
    session.request(kind="set", assignments=["trials=6", "budget.epochs=24"])
    session.run()
    assert len(session.ledger.trials()) == 6
    assert 10 < session.ledger.totals().epochs <= 25
    session.close()


def test_a_changed_space_is_what_is_drawn_from(tmp_path: Path) -> None:
    session = Session(tmp_path, trials=14, training={"epochs": 2})
    for _ in range(4):
        session.epoch()
    before = len(session.ledger.trials())
    narrowed = session.request(
        kind="set", assignments=["search.lr.low=0.004", "search.lr.high=0.008", "search.optimizer=[adamw, momentum]"]
    )
    assert narrowed.done
    for _ in range(10):
        session.epoch()
    middle = len(session.ledger.trials())
    drawn = [record.params for record in session.ledger.trials()[before:]]
    assert len(drawn) == 10
    assert all(0.004 <= params["lr"] <= 0.008 for params in drawn)
    assert {params["optimizer"] for params in drawn} == {"adamw", "momentum"}
    stored = session.study.get_trials()[before]
    assert stored.distributions["optimizer"].choices == ("sgd", "adamw", "momentum")  # type: ignore[attr-defined]

    session.request(kind="set", assignments=["search.lr.high=1.0", "search.optimizer=[nadam]", "trials=20"])
    session.close()
    session = Session(tmp_path)
    assert session.ledger.changed["search.lr.high"] == 1.0
    file = load_sweep({**SWEEP, "trials": 14, "training": {"epochs": 2}, "runs_dir": str(tmp_path)})
    again, kept = steered_again(file, read_begun(tmp_path / "s" / "journal.jsonl"))
    assert (again.space.fingerprint, again.trials) == (session.plan.space.fingerprint, 20)
    assert kept.endswith(": search.lr.high, search.lr.low, search.optimizer.choices, trials")
    edited = load_sweep({**SWEEP, "trials": 15, "search": {"lr": [0.1]}})
    assert steered_again(edited, read_begun(tmp_path / "s" / "journal.jsonl")) == (edited, "")
    session.run()
    drawn = [record.params for record in session.ledger.trials()[middle:]]
    assert {params["optimizer"] for params in drawn} == {"nadam"}
    assert max(params["lr"] for params in drawn) > 0.008
    first, last = session.study.get_trials()[0], session.study.get_trials()[-1]
    choices = ("sgd", "adamw", "momentum", "nadam")
    assert first.distributions["optimizer"].choices == choices  # type: ignore[attr-defined]
    assert first.params == session.ledger.trial(0).params
    assert last.params["optimizer"] == "nadam"
    session.close()


def test_the_points_of_a_grid_that_auto_has_chosen_are_fixed(tmp_path: Path) -> None:
    session = Session(tmp_path, sampler={"name": "auto"}, search={"lr": [0.001, 0.01, 0.1, 1.0]})
    session.epoch()
    answer = session.request(kind="set", assignments=["search.lr=[0.01, 0.02]"])
    assert not answer.done
    assert "the points of a grid are fixed" in answer.text
    session.close()


def test_a_study_that_was_lost_is_rebuilt_from_a_steered_journal(tmp_path: Path) -> None:
    session = Session(tmp_path, trials=6, training={"epochs": 2})
    for _ in range(2):
        session.epoch()
    session.request(kind="set", assignments=["search.optimizer=[nadam]", "search.lr.low=0.01"])
    session.epoch()
    session.request(kind="enqueue", settings={"lr": 0.02})
    params = [record.params for record in session.ledger.trials()]
    session.close()
    (tmp_path / "optuna.db").unlink()

    session = Session(tmp_path)
    assert [trial.params for trial in session.study.get_trials()[: len(params)]] == params
    session.run()
    assert 0.02 in [record.params["lr"] for record in session.ledger.trials()]
    session.close()


def test_an_enqueued_configuration_comes_next_and_is_checked_against_the_present_space(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.epoch()
    assert session.request(kind="enqueue", settings={"lr": 0.02, "optimizer": "adamw"}).text == (
        "enqueued: optimizer adamw, lr 0.02; what is left open is drawn by the sampler"
    )
    assert session.request(kind="enqueue", settings={"lr": 0.05}).done
    session.request(kind="set", assignments=["search.lr.high=0.03"])  # the second is outside now
    session.run()
    assert session.ledger.trial(2).params == {"optimizer": "adamw", "lr": 0.02}
    (rejected,) = session.ledger.rejected()
    assert (rejected.rule, rejected.reason) == ("lr", "got 0.05; the space no longer holds it")
    refused = session.request(kind="enqueue", settings={"lr": 0.05, "weight_decay": 0.1, "optimiser": "sgd"})
    assert not refused.done
    session.close()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"lr": 0.5}, "enqueue: lr: got 0.5; the search has 0.001 to 0.1"),
        ({"optimizer": "lion"}, "enqueue: optimizer: got lion; the search has sgd, adamw, momentum"),
        ({"optimiser": "sgd"}, "enqueue: optimiser: is not searched here. Did you mean 'optimizer'?"),
        ({"lr": True}, "enqueue: lr: got true; the search has 0.001 to 0.1"),
    ],
)
def test_a_configuration_outside_the_space_is_refused(tmp_path: Path, settings: Any, error: str) -> None:
    session = Session(tmp_path)
    assert session.request(kind="enqueue", settings=settings) == Answer(done=False, text=error)
    assert session.ledger.enqueued == {}
    session.close()


def test_hostile_requests_do_not_end_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(tmp_path)
    number = "a" * 32
    session.requests.path.mkdir(exist_ok=True)
    (session.requests.path / f"{number}.json").write_text("{")
    session.steering.poll()
    answer = session.requests.wait(number, 0.0)
    assert answer is not None
    assert answer.text.startswith("the request cannot be read: ")

    def broken(_number: int) -> bool:
        raise ZeroDivisionError("a fault of ours")

    session.epoch()
    monkeypatch.setattr(session.search, "stop_trial", broken)
    assert session.request(kind="stop", trial=0).text == "the request failed: a fault of ours"
    session.close()


def test_a_session_that_is_ending_refuses_and_answers_what_comes_late(tmp_path: Path) -> None:
    session = Session(tmp_path)
    assert session.request(kind="end").text == "sweep 's' ends after the epochs now running"
    assert session.signals.stop_requested
    assert session.request(kind="stop", trial=0).text.startswith("the session of sweep 's' is ending")
    late = session.requests.send(REQUESTS.validate_python({"kind": "end"}))
    session.steering.close()
    answer = session.requests.wait(late, 0.0)
    assert answer is not None
    assert not answer.done
    session.close()
