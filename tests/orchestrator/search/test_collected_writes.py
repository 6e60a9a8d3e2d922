"""Writes to a study that are collected into one transaction: same content, all or nothing, nothing lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from orchestrator.search.study_cache import later, together, write_late

from orchestrator.lanes.tune_keys import EPOCH, FAILURES, HELD, LANE, NODES, REPORTED
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.search import study_cache
from orchestrator.search.callback import SweepCallback
from orchestrator.search.searcher import StudySearcher
from orchestrator.search.storage import StudyStorage, open_storage
from orchestrator.search.study import open_study
from orchestrator.search.study_replay import replay_study
from tests.support.sweeps.plans import search_plan

SWEEP: dict[str, Any] = {
    "name": "s",
    "dataset": {"name": "digits"},
    "model": {"name": "conv_resnet26_small"},
    "training": {"epochs": 3},
    "trials": 3,
    "search": {
        name: {"type": "float", "low": 1e-3, "high": 1e-2, "log": True} for name in ("lr", "weight_decay", "min_lr")
    },
    "try_first": [],
    "sampler": {"name": "tpe", "startup_trials": 1},
    "trial_scheduler": {"name": "none"},
}


class Killed(BaseException):
    """Death of the driver."""


class Session:
    """A driver without Ray: one lane, whose trials report as Tune does."""

    def __init__(self, folder: Path, **changed: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.plan = folder, search_plan(SWEEP | changed)
        self.journal = Journal(folder / "journal.jsonl")
        self.ledger = Ledger(self.journal)
        resumed = self.ledger.sessions > 0
        self.ledger.sweep_resumed({}, {}, {}) if resumed else self.ledger.sweep_started("s", {}, {}, {})
        self.storage = open_storage(f"sqlite:///{folder}/optuna.db")
        self.study = open_study(self.plan, "s", self.storage, resumed=resumed)
        self.objectives = Objectives.of(self.plan.objectives, ())
        replay_study(self.study, self.ledger, self.plan.space, self.objectives)
        self.searcher = StudySearcher(self.study, self.plan, self.ledger)
        hub = SimpleNamespace(release=SimpleNamespace(remote=lambda tune_id: None))
        self.callback = SweepCallback(self.searcher, self.study, self.objectives, self.ledger, hub)
        self.transactions = 0  # that change the database
        self._changes = False
        sqlalchemy.event.listen(self.storage.engine, "before_cursor_execute", self._note_change)
        sqlalchemy.event.listen(self.storage.engine, "commit", self._count)

    def _note_change(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self._changes = self._changes or statement.startswith(("INSERT", "UPDATE"))

    def _count(self, connection: Any) -> None:
        self.transactions += self._changes
        self._changes = False

    def report(self, trial: Any, epoch: int) -> None:
        values = {"val/top1": 0.5 + 1e-3 * epoch, "val/loss": 1 / epoch}
        trial.last_result = {REPORTED: tuple(values.items()), EPOCH: epoch, HELD: 1.0, LANE: 0, NODES: (), FAILURES: 0}
        self.callback.on_trial_result(0, [], trial, trial.last_result)

    def start(self, tune_id: str) -> Any:
        found = self.searcher.suggest(tune_id)
        assert isinstance(found, dict)
        return SimpleNamespace(trial_id=tune_id, config=found, last_result={}, run_metadata=SimpleNamespace())

    def end(self, trial: Any) -> None:
        self.searcher.release(trial.trial_id)
        self.callback.on_trial_complete(0, [], trial)

    def stored(self) -> list[FrozenTrial]:
        """Return the trials that another process sees."""
        return optuna.load_study(study_name="s", storage=RDBStorage(f"sqlite:///{self.folder}/optuna.db")).trials


def facts(trials: list[FrozenTrial]) -> list[Any]:
    names = ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs")
    return [{**{name: getattr(each, name) for name in names}, "curve": each.intermediate_values} for each in trials]


def run_whole(session: Session) -> None:
    for index in range(3):
        trial = session.start(f"trial-{index}")
        for epoch in (1, 2, 3):
            session.report(trial, epoch)
            if epoch < 3:
                session.callback.on_step_end(0, [])
        session.end(trial)


def test_a_trial_takes_three_transactions_and_one_for_each_report_before_its_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Session(tmp_path / "few")
    run_whole(few)
    content = facts(few.stored())
    assert [each["state"] for each in content] == [TrialState.COMPLETE] * 3
    assert [len(each["params"]) for each in content] == [3] * 3
    assert content[0]["curve"] == {1: 0.501, 2: 0.502, 3: 0.503}
    assert few.transactions == 3 * (3 + 2)  # created, values drawn, ended with the last report; the other reports

    for name in ("together", "later"):
        monkeypatch.setattr(study_cache.StudyCache, name, lambda _: nullcontext())
    many = Session(tmp_path / "many")
    run_whole(many)
    assert facts(many.stored()) == content
    # Created, three values, its Tune trial, three reports, outcome and end; TPE notes what it drew together, twice.
    assert many.transactions == 3 * 10 + 2


@pytest.fixture
def study(tmp_path: Path) -> Iterator[optuna.Study]:
    yield open_study(search_plan(SWEEP), "s", open_storage(f"sqlite:///{tmp_path}/optuna.db"))


def read_again(study: optuna.Study) -> FrozenTrial:
    database = study._storage._backend.url  # type: ignore[attr-defined]
    return optuna.load_study(study_name="s", storage=RDBStorage(database)).trials[-1]


@pytest.mark.parametrize("block", [together, later])
def test_what_a_block_sets_is_read_within_it_and_after_it(study: optuna.Study, block: Any) -> None:
    trial, storage = study.ask(), study._storage
    created, stored = storage.get_trial(trial._trial_id), read_again(study)
    assert facts([created]) == facts([stored])
    assert created.datetime_start == stored.datetime_start
    with block(study):
        assert trial.suggest_float("lr", 0.1, 1, log=True) == pytest.approx(trial.suggest_float("lr", 0.1, 1, log=True))
        trial.suggest_categorical("optimizer", ["sgd", "adamw"])
        trial.set_user_attr("reason", ("a", "pair"))
        storage.set_trial_system_attr(trial._trial_id, "note", {"1": None})
        storage.set_trial_intermediate_value(trial._trial_id, 1, float("inf"))
        assert read_again(study).params == {}
        within = storage.get_trial(trial._trial_id)
    after = storage.get_trial(trial._trial_id)
    write_late(study)
    expected = facts([read_again(study)])
    assert facts([within]) == facts([after]) == expected
    assert expected[0]["curve"] == {1: float("inf")}
    assert expected[0]["user_attrs"] == {"reason": ["a", "pair"]}
    assert expected[0]["params"].keys() == {"lr", "optimizer"}


@pytest.mark.parametrize("read", ["all", "next", "other write"])
def test_late_values_are_written_before_anything_else(study: optuna.Study, read: str) -> None:
    first, second = study.ask(), study.ask()
    with later(study):
        first.report(0.25, step=1)
    if read == "all":
        assert study.get_trials(deepcopy=False)[0].intermediate_values == {1: 0.25}
    elif read == "next":
        study.ask()
    else:
        second.set_user_attr("note", 1)
    assert optuna.load_study(study_name="s", storage=study._storage._backend.url).trials[0].intermediate_values == {  # type: ignore[attr-defined]
        1: 0.25
    }


def test_an_end_is_stored_whole_or_not_at_all(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any, **__: Any) -> bool:
        raise Killed

    trial = study.ask()
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(RDBStorage, "set_trial_state_values", dies)
        with together(study):
            trial.set_user_attr("outcome", "finished")
            study.tell(trial, 0.5)
    stored = read_again(study)
    assert (stored.state, stored.user_attrs) == (TrialState.RUNNING, {})


def test_a_commit_whose_answer_is_lost_is_not_repeated(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def loses(session: Any) -> None:
        commit(session)
        if not lost and not session.held:
            lost.append(session)
            raise sqlalchemy.exc.OperationalError("COMMIT", {}, RuntimeError("server closed the connection"))

    lost: list[Any] = []
    trial = study.ask()
    session_class = study._storage._backend.scoped_session.session_factory.class_  # type: ignore[attr-defined]
    commit = session_class.commit
    with monkeypatch.context() as patched:
        patched.setattr(session_class, "commit", loses)
        with together(study):
            trial.set_user_attr("outcome", "finished")
            told = study.tell(trial, 0.5)
    assert lost
    for ended in (told, read_again(study)):
        assert (ended.state, ended.value, ended.user_attrs) == (TrialState.COMPLETE, 0.5, {"outcome": "finished"})


def test_writes_that_conflict_are_carried_out_one_by_one(study: optuna.Study) -> None:
    storage: StudyStorage = study._storage._backend  # type: ignore[attr-defined]
    trial = study.ask()
    trial.suggest_float("lr", 0, 1)
    with together(study):
        trial.set_user_attr("before", 1)
        storage_write(study, trial, "lr")  # the database has this one
        trial.set_user_attr("after", 2)
    assert read_again(study).user_attrs == {"before": 1, "after": 2}
    study.tell(trial, 0.5)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError), together(study):
        trial.set_user_attr("late", 1)
        trial.set_user_attr("later", 1)
    assert "late" not in storage.get_trial(trial._trial_id).user_attrs


def storage_write(study: optuna.Study, trial: optuna.Trial, name: str) -> None:
    study._storage.set_trial_param(trial._trial_id, name, 0.5, optuna.distributions.FloatDistribution(0, 1))


def test_the_journal_has_a_report_before_the_study_and_a_killed_driver_loses_none(tmp_path: Path) -> None:
    session = Session(tmp_path / "s")
    trial = session.start("first")
    session.report(trial, 1)
    assert [event.epoch for event in session.ledger.events() if event.event == "trial_reported"] == [1]
    assert session.stored()[0].intermediate_values == {}
    session.callback.on_step_end(0, [])
    assert session.stored()[0].intermediate_values == {1: 0.501}
    session.report(trial, 2)
    session.journal.close()  # killed before the study has it

    resumed = Session(tmp_path / "s")
    assert resumed.stored()[0].intermediate_values == {1: 0.501, 2: 0.502}
    assert resumed.ledger.trial(0).status is TrialStatus.INTERRUPTED
    again = resumed.start("second")
    assert again.config["epochs_done"] == 2


def test_a_killed_driver_loses_no_report_of_several_objectives(tmp_path: Path) -> None:
    objectives = {"objective": [{"metric": "val/top1"}, {"metric": "val/loss"}]}
    session = Session(tmp_path / "s", **objectives)
    trial = session.start("first")
    session.report(trial, 1)
    session.callback.on_step_end(0, [])
    session.report(trial, 2)
    session.journal.close()  # killed before the study has it

    stored = Session(tmp_path / "s", **objectives).stored()[0]
    assert stored.intermediate_values == {}
    assert {name: value for name, value in stored.user_attrs.items() if name.startswith("epoch ")} == {
        "epoch 00001": {"val/top1": 0.501, "val/loss": 1.0},
        "epoch 00002": {"val/top1": 0.502, "val/loss": 0.5},
    }
    (tmp_path / "s" / "optuna.db").unlink()
    rebuilt = Session(tmp_path / "s", **objectives).stored()[0]
    assert rebuilt.user_attrs == stored.user_attrs


def test_a_driver_killed_at_a_rejection_rejects_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any, **__: Any) -> None:
        raise Killed

    session = Session(tmp_path / "s", limits={"max_params": 1})
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(RDBStorage, "set_trial_user_attr", dies)
        session.start("first")
    (rejected,) = session.ledger.rejected()
    assert session.stored()[0].params == rejected.params


@pytest.mark.parametrize(
    ("where", "last", "stored"), [(RDBStorage, "set_trial_user_attr", 0), (Ledger, "trial_started", 3)]
)
def test_a_driver_killed_at_a_proposal_proposes_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, last: str, stored: int
) -> None:
    def dies(*_: Any, **__: Any) -> None:
        raise Killed

    undisturbed, session = Session(tmp_path / "undisturbed"), Session(tmp_path / "killed")
    for each in (undisturbed, session):
        trial = each.start("first")
        each.report(trial, 3)
        each.end(trial)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(where, last, dies)  # the last write of the transaction, or the one after it
        session.start("second")
    assert len(session.stored()[1].params) == stored
    session.journal.close()
    resumed = Session(tmp_path / "killed")
    assert resumed.start("second").config == undisturbed.start("second").config
    assert facts(resumed.stored()) == facts(undisturbed.stored())


def test_blocks_of_a_study_without_a_database_do_nothing() -> None:
    study = optuna.create_study()
    blocks: list[AbstractContextManager[None]] = [together(study), later(study)]
    for block in blocks:
        with block:
            trial = study.ask()
            trial.set_user_attr("note", 1)
            assert study.trials[-1].user_attrs == {"note": 1}
    write_late(study)
