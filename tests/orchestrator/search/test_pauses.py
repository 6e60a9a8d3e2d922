"""Sweeps whose trials pause and resume: searcher, callback, scheduler, study and journal, on simulated lanes."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from orchestrator.lanes.tune_keys import EPOCH, EPOCHS_DONE, FAILURES, HELD, LANE, NODES, REPORTED, TRIAL
from orchestrator.records.events import TrialPaused, TrialReported, TrialResumed, TrialStarted
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.search.callback import SweepCallback
from orchestrator.search.pauses import Pauses
from orchestrator.search.samplers.learnable import LearnableStudy, TrialWindow
from orchestrator.search.schedulers.trial_schedulers import create_allocation, create_trial_scheduler
from orchestrator.search.searcher import FINISHED, StudySearcher
from orchestrator.search.storage import open_storage
from orchestrator.search.study import close_study, open_study
from orchestrator.search.study_replay import replay_study
from orchestrator.search.write_behind import WriteBehindStorage
from tests.support.sweeps.killed_driver import lose_unwritten
from tests.support.sweeps.plans import search_plan

SWEEP: dict[str, Any] = {
    "name": "s",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "training": {"epochs": 9},
    "trials": 9,
    "search": {"lr": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True}},
    "try_first": [],
    "sampler": {"name": "tpe", "startup_trials": 4, "startup": "random"},
    "trial_scheduler": {"name": "asha", "grace_epochs": 1, "reduction_factor": 3},
}


class Killed(Exception):
    """Death of a driver."""


class Session:
    """A driver without Ray: its lanes report whenever the simulation lets them."""

    def __init__(self, folder: Path, *, most_paused: int = 100, **changes: Any) -> None:
        self.plan = search_plan({**SWEEP, **changes})
        self.journal = Journal(folder / "journal.jsonl")
        self.ledger = Ledger(self.journal)
        resumed = self.ledger.sessions > 0
        self.ledger.sweep_resumed({}, {}, {}) if resumed else self.ledger.sweep_started("s", {}, {}, {})
        self.study = open_study(self.plan, "s", open_storage(f"sqlite:///{folder}/optuna.db"), resumed=resumed)
        objectives = Objectives.of(self.plan.objectives, ())
        replay_study(self.study, self.ledger, self.plan.space, objectives)
        allocation = create_allocation(self.plan, self.ledger)
        assert allocation is not None
        self.allocation = allocation
        self.let_go: list[int] = []
        self.fails = 0  # that many times before its first report, each time that a trial is resumed
        pauses = Pauses(self.study, self.ledger, objectives, allocation, most=most_paused, let_go=self.let_go.append)
        self.searcher = StudySearcher(self.study, self.plan, self.ledger, allocation=allocation, pauses=pauses)
        hub = SimpleNamespace(release=SimpleNamespace(remote=lambda tune_id: None))
        self.callback = SweepCallback(
            self.searcher, self.study, objectives, self.ledger, hub, allocation=allocation, pauses=pauses
        )
        self.scheduler = create_trial_scheduler(self.plan, self.ledger, None, allocation)  # type: ignore[arg-type]
        self.ids = (f"{self.ledger.sessions}-{count}" for count in itertools.count())

    def run(self, *, lanes: int = 2, events: int | None = None, seed: int = 0) -> None:
        """Train like Tune until nothing is left; where `events` are given, die after so many."""
        chance, running, finished = random.Random(seed), [], False
        for count in itertools.count():
            if count == events:
                raise Killed
            while len(running) < lanes and not finished:
                found = self.searcher.suggest(tune_id := next(self.ids))
                finished = found == FINISHED
                if not isinstance(found, dict):
                    break
                running.append(tune_trial(tune_id, found))
            if not running:
                assert finished
                return
            trial = running[chance.randrange(len(running))]
            if self._step(trial):
                running.remove(trial)

    def _step(self, trial: Any) -> bool:
        """Report an epoch as Tune does; return whether the trial has ended."""
        trial.epoch += 1
        lr = trial.config[TRIAL]["training"]["lr"]
        values = metrics(lr, trial.epoch)
        where = {HELD: 1.0 + trial.epoch, LANE: 0, NODES: (), FAILURES: trial.config[FAILURES] + self.fails}
        result = {REPORTED: tuple(values.items()), EPOCH: trial.epoch, **where}
        done = trial.epoch >= 9
        decision = "STOP" if done else self.scheduler.on_trial_result(None, trial, result)  # type: ignore[arg-type]
        self.callback.on_trial_result(0, [], trial, result)
        trial.last_result = result
        if decision != "STOP":
            return False
        self.searcher.release(trial.trial_id)
        self.callback.on_trial_complete(0, [], trial)
        return True

    def close(self) -> None:
        close_study(self.study)
        self.journal.close()

    def kill(self) -> None:
        lose_unwritten(self.study)
        self.journal.close()


def tune_trial(tune_id: str, config: Mapping[str, Any]) -> Any:
    return SimpleNamespace(
        trial_id=tune_id, config=config, epoch=config[EPOCHS_DONE], last_result={}, run_metadata=SimpleNamespace()
    )


def metrics(lr: float, epoch: int) -> dict[str, float]:
    """Return an invented learning curve: the best rate is 0.003."""
    return {"val/top1": (1 - 0.5**epoch) * math.exp(-abs(math.log(lr / 0.003))), "val/loss": 1 / epoch}


def counted(session: Session) -> Counter[str]:
    return Counter(str(record.status) for record in session.ledger.trials())


def epochs_trained(session: Session) -> Counter[tuple[int, int]]:
    return Counter((event.trial, event.epoch) for event in session.ledger.events() if isinstance(event, TrialReported))


def test_trials_pause_at_rungs_and_the_best_resume_to_the_end(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.run()

    records = session.ledger.trials()
    assert len(records) == 9
    assert set(counted(session)) == {"paused", "finished"}
    assert all(count == 1 for count in epochs_trained(session).values())
    best = max(records, key=lambda record: record.reports[0]["val/top1"])
    assert best.status is TrialStatus.FINISHED
    assert best.attempts > 1
    assert {record.epochs for record in records if record.status is TrialStatus.PAUSED} <= {1, 3}
    states = {trial.number: trial for trial in optuna.load_study(study_name="s", storage=session.study._storage).trials}
    for record in records:
        paused = record.status is TrialStatus.PAUSED
        assert states[record.number].state is (TrialState.RUNNING if paused else TrialState.COMPLETE)
        assert len(states[record.number].intermediate_values) == record.epochs
    session.close()


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("lanes", [1, 3])
def test_a_sweep_killed_again_and_again_loses_no_trial_and_repeats_none(
    tmp_path: Path, lanes: int, written: bool
) -> None:
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    folder.mkdir(), whole.mkdir()
    sessions = 0
    for events in itertools.count(2):
        session = Session(folder)
        sessions += 1
        paused = {record.number for record in session.ledger.trials() if record.status is TrialStatus.PAUSED}
        waiting = session.study.get_trials(deepcopy=False, states=[TrialState.WAITING])
        assert paused.isdisjoint(trial.number for trial in waiting)
        try:
            session.run(lanes=lanes, events=events)
            break
        except Killed:
            session.close() if written else session.kill()
    assert sessions > 4

    records = session.ledger.trials()
    assert [record.number for record in records] == list(range(9))
    assert session.ledger.open() == []
    assert all(count == 1 for count in epochs_trained(session).values())
    started = [event.trial for event in session.ledger.events() if isinstance(event, TrialStarted)]
    assert sorted(started) == list(range(9))
    if lanes == 1:  # then the order of the reports is the same as without an interruption
        undisturbed = Session(whole)
        undisturbed.run(lanes=1)
        assert epochs_trained(session) == epochs_trained(undisturbed)
        assert counted(session) == counted(undisturbed)
        undisturbed.close()
    session.close()


@pytest.mark.parametrize(
    "changes", [{}, {"trials": 3}, {"budget": {"epochs": 30}}, {"trial_scheduler": {"name": "asha"}}]
)
def test_a_sweep_that_freeze_thaw_ends_before_all_trials_began_says_why(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    session = Session(tmp_path, **{"trial_scheduler": {"name": "freeze_thaw"}, **changes})
    assert session.allocation.spent == ""
    session.run()
    begun = session.ledger.count_configurations()
    reason = f"freeze_thaw has spent its 27 epochs (9 trials x 9 epochs / 3) on {begun} trials"
    assert session.allocation.spent == ("" if changes else reason)
    assert changes or begun < 9
    session.close()


def test_failures_of_a_trial_are_counted_over_pauses_and_sessions(tmp_path: Path) -> None:
    for events in (7, None):
        session = Session(tmp_path)
        session.fails = 1
        with contextlib.suppress(Killed):
            session.run(events=events)
        assert all(record.failures <= record.attempts for record in session.ledger.trials())
        session.close()
    finished = [record for record in session.ledger.trials() if record.status is TrialStatus.FINISHED]
    assert finished
    assert all(record.failures == record.attempts > 1 for record in finished)


def test_a_driver_that_dies_between_a_report_and_its_pause_pauses_the_trial_later(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.callback._pauses = SimpleNamespace(record=dies)  # type: ignore[assignment]
    with pytest.raises(Killed):
        session.run(lanes=1)
    session.kill()

    session = Session(tmp_path)
    session.run(lanes=1)
    events = [event for event in session.ledger.events() if getattr(event, "trial", None) == 0]
    assert [type(event) for event in events[1:4] if isinstance(event, (TrialReported, TrialPaused))] == [
        TrialReported,
        TrialPaused,
    ]
    assert all(count == 1 for count in epochs_trained(session).values())
    session.close()


def dies(number: int) -> None:
    raise Killed


def test_a_finished_sweep_resumes_its_paused_trials_where_more_are_wanted(tmp_path: Path) -> None:
    session = Session(tmp_path, trials=3)
    session.run()
    assert session.allocation.is_finished
    before = counted(session)
    assert before == {"finished": 1, "paused": 2}
    session.close()

    session = Session(tmp_path, trials=12)
    assert not session.allocation.is_finished
    session.run()
    assert len(session.ledger.trials()) == 12
    assert all(count == 1 for count in epochs_trained(session).values())
    assert counted(session)["finished"] >= 1
    session.close()


def test_the_worst_paused_trials_lose_their_checkpoints_and_start_again(tmp_path: Path) -> None:
    session = Session(tmp_path, most_paused=2)
    session.run()

    assert session.let_go
    assert len(session.ledger.restorable()) <= 2
    ranked = sorted(
        (record for record in session.ledger.trials() if record.status is TrialStatus.PAUSED),
        key=Objectives.of(session.plan.objectives, ()).rank,
    )
    assert all(record.resume_epoch for record in ranked[:2] if record.number not in session.let_go)
    assert {record.number for record in ranked if not record.resume_epoch} <= set(session.let_go)
    gone = [event.trial for event in session.ledger.events() if isinstance(event, TrialPaused) and event.epoch == 0]
    assert gone == session.let_go
    session.close()


@pytest.mark.parametrize("by_user", [False, True])
def test_epochs_repeated_after_a_lost_checkpoint_do_not_make_a_trial_slower(tmp_path: Path, by_user: bool) -> None:
    session = Session(tmp_path, training={"epochs": 27}, trial_scheduler={"name": "freeze_thaw", "grace_epochs": 1})
    ledger, allocation = session.ledger, session.allocation

    def train(epochs: range, already: int) -> None:
        for epoch in epochs:
            held_s = 2.0 * (epoch - already)
            allocation.report(0, epoch, metrics(0.003, epoch), held_s)
            ledger.trial_reported(0, epoch, metrics(0.003, epoch), held_s=held_s)

    def seconds(found: Any) -> float:
        return float(found._allocator._curves.usual_seconds)

    ledger.trial_started(0, "a", {}, {})
    allocation.start(0, {})
    train(range(1, 10), 0)
    if by_user:
        allocation.hold(0)
        ledger.trial_steered("", 0, "pause")
    for resume_epoch in (9, 0):  # then its checkpoint is removed
        ledger.trial_paused(0, resume_epoch)
        allocation.pause(0, resume_epoch)
    if by_user:
        ledger.trial_steered("", 0, "resume")
        allocation.let_go(0)
    ledger.trial_resumed(0, "b")
    allocation.start(0, {})
    train(range(10, 13), 0)  # the first nine again, which are not reported
    assert seconds(allocation) == seconds(create_allocation(session.plan, ledger)) == 2.0
    session.close()


def test_a_budget_of_epochs_begins_no_trial_beyond_it(tmp_path: Path) -> None:
    session = Session(tmp_path, trials=100, budget={"epochs": 12})
    session.run(lanes=1)
    assert session.ledger.totals().epochs == 12
    session.close()


def test_a_grid_that_is_used_up_ends_with_its_best_trial_trained(tmp_path: Path) -> None:
    session = Session(tmp_path, trials=9, search={"lr": [0.001, 0.003, 0.009]}, sampler={"name": "grid"})
    session.run()
    assert counted(session) == {"finished": 1, "paused": 2}
    session.close()


def test_samplers_see_paused_trials_as_pruned_with_their_values(tmp_path: Path) -> None:
    session = Session(tmp_path)
    with pytest.raises(Killed):
        session.run(lanes=1, events=7)
    window = TrialWindow(None, session.study.directions)
    seen = {trial.number: trial for trial in LearnableStudy(session.study, window).get_trials()}
    for record in session.ledger.trials():
        if record.attempts > 1 or record.status is TrialStatus.PAUSED:  # also while it runs again
            assert seen[record.number].state is TrialState.PRUNED
            assert max(seen[record.number].intermediate_values) == record.epochs
    assert any(event for event in session.ledger.events() if isinstance(event, TrialResumed))
    session.close()


def test_tpe_sees_paused_trials_of_several_objectives_with_their_newest_values(tmp_path: Path) -> None:
    objectives = [{"metric": "val/top1", "mode": "max"}, {"metric": "val/loss", "mode": "min"}]
    session = Session(tmp_path, objective=objectives)
    session.run()
    assert {TrialStatus.PAUSED, TrialStatus.FINISHED} == {record.status for record in session.ledger.trials()}
    window = TrialWindow(None, session.study.directions, completes_paused=True)
    seen = LearnableStudy(session.study, window).get_trials()
    assert [trial.state for trial in seen] == [TrialState.COMPLETE] * 9
    for record, trial in zip(session.ledger.trials(), seen, strict=True):
        if record.status is TrialStatus.PAUSED:
            assert trial.values == [record.reports[-1]["val/top1"], record.reports[-1]["val/loss"]]
    plain = LearnableStudy(session.study, TrialWindow(None, session.study.directions)).get_trials()
    assert {trial.state for trial in plain} == {TrialState.COMPLETE, TrialState.PRUNED}
    session.close()


def test_a_sweep_does_not_read_its_study_again(tmp_path: Path, count_reads: Callable[..., list[int]]) -> None:
    session = Session(tmp_path, trials=15)
    assert isinstance(session.study._storage, WriteBehindStorage)
    reads = count_reads(session.study._storage.database)
    session.run(lanes=2)
    assert len(session.study.trials) == 15
    assert reads == []
    session.close()


@pytest.fixture
def count_reads(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    def install(database: Any) -> list[int]:
        sizes: list[int] = []
        original = database._get_trials

        def counting(*args: Any, **kwargs: Any) -> Any:
            found = original(*args, **kwargs)
            sizes.append(len(found))
            return found

        monkeypatch.setattr(database, "_get_trials", counting)
        return sizes

    return install
