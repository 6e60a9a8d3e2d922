"""Studies in memory that are written behind the search: same content, in order, nothing lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from orchestrator.errors import ResumeError, StorageError
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.search import write_behind
from orchestrator.search.proposals.rejections import RejectionStreak
from orchestrator.search.storage import open_storage
from orchestrator.search.study import close_study, open_study
from orchestrator.search.write_behind import WriteBehindStorage, flush_notes, flush_study
from tests.support.sweeps.lone_driver import SWEEP, Killed, Session, facts, without_times
from tests.support.sweeps.plans import search_plan


def run_whole(session: Session) -> None:
    for index in range(3):
        trial = session.start(f"trial-{index}")
        for epoch in (1, 2, 3):
            session.report(trial, epoch)
        session.end(trial)


@pytest.fixture(autouse=True)
def written_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the writing to `flush`, unless a test wants the thread."""
    monkeypatch.setattr(write_behind, "_DELAY_S", 3600.0)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[optuna.Study]:
    yield open_study(search_plan(SWEEP), "s", open_storage(f"sqlite:///{tmp_path}/optuna.db"))


def database_of(study: optuna.Study) -> str:
    return str(study._storage.database.url)  # type: ignore[attr-defined]


def read_again(study: optuna.Study) -> list[FrozenTrial]:
    return optuna.load_study(study_name="s", storage=RDBStorage(database_of(study))).trials


def test_the_database_gets_what_the_driver_has_in_one_transaction(tmp_path: Path) -> None:
    def count(connection: Any) -> None:
        commits.append(1)

    commits: list[int] = []
    session = Session(tmp_path)
    sqlalchemy.event.listen(session.storage.engine, "commit", count)
    run_whole(session)
    assert commits == []
    assert session.stored() == []
    flush_study(session.study)
    assert len(commits) == 1
    stored = session.stored()
    assert facts(stored) == facts(session.study.trials)
    assert [trial.state for trial in stored] == [TrialState.COMPLETE] * 3
    assert stored[0].intermediate_values == {1: 0.501, 2: 0.502, 3: 0.503}
    flush_study(session.study)
    assert len(commits) == 1  # nothing is left


def test_a_thread_writes_what_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_behind, "_DELAY_S", 0.01)
    session = Session(tmp_path)
    run_whole(session)
    deadline = time.monotonic() + 60
    while facts(session.stored()) != facts(session.study.trials):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_attributes_are_read_as_the_database_returns_them(study: optuna.Study) -> None:
    trial, storage = study.ask(), study._storage
    trial.suggest_float("lr", 0.1, 1, log=True)
    trial.suggest_categorical("optimizer", ["sgd", "adamw"])
    trial.set_user_attr("reason", ("a", "pair"))
    storage.set_trial_system_attr(trial._trial_id, "note", {1: None})
    storage.set_trial_intermediate_value(trial._trial_id, 1, float("inf"))
    study.set_user_attr("pair", (1, 2))
    within = facts(study.trials)
    flush_study(study)
    assert within == facts(read_again(study))
    assert within[0]["user_attrs"] == {"reason": ["a", "pair"]}
    loaded = optuna.load_study(study_name="s", storage=RDBStorage(database_of(study)))
    assert loaded.user_attrs["pair"] == study.user_attrs["pair"] == [1, 2]
    with pytest.raises(TypeError, match="serializable"):
        trial.set_user_attr("reason", object())


def test_a_study_that_is_loaded_has_what_its_database_has(study: optuna.Study) -> None:
    done, open_trial = study.ask(), study.ask()
    done.suggest_float("lr", 0, 1)
    open_trial.suggest_float("lr", 0, 1)
    study.tell(done, 0.5)
    study.enqueue_trial({"lr": 0.25})
    flush_study(study)
    again = open_study(search_plan(SWEEP), "s", open_storage(database_of(study)), resumed=True)
    assert facts(again.trials) == facts(study.trials)
    assert again.best_trial.number == 0
    again.tell(1, 0.75)
    assert again.best_trial.number == 1
    assert again.ask().suggest_float("lr", 0, 1) == 0.25  # the one that was enqueued
    with pytest.raises(ValueError, match="different distribution kind"):
        again.ask().suggest_categorical("lr", [1, 2])
    flush_study(again)
    assert without_times(read_again(study)) == without_times(again.trials)


def test_a_trial_that_waits_again_is_the_next_one(study: optuna.Study) -> None:
    trials = [study.ask() for _ in range(3)]
    study.ask()
    study._storage.set_trial_state_values(trials[1]._trial_id, TrialState.WAITING)
    assert [study.ask().number, study.ask().number] == [1, 4]


@pytest.mark.parametrize("key", ["cma:0", "tpe:relative_params:0"])
def test_notes_of_a_sampler_are_written_before_its_proposal_is_recorded(study: optuna.Study, key: str) -> None:
    flush_study(study)
    trial = study.ask()
    study._storage.set_trial_system_attr(trial._trial_id, key, 1)
    flush_notes(study, trial)
    is_written = key.startswith("cma")  # the others repeat what becomes the parameters
    assert [each.system_attrs for each in read_again(study)] == [{key: 1}] * is_written


def test_a_transaction_is_stored_whole_or_not_at_all(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any, **__: Any) -> bool:
        raise Killed

    flush_study(study)
    trial = study.ask()
    trial.set_user_attr("outcome", "finished")
    study.tell(trial, 0.5)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(RDBStorage, "set_trial_state_values", dies)
        flush_study(study)
    assert read_again(study) == []
    flush_study(study)
    assert facts(read_again(study)) == facts(study.trials)


@pytest.mark.parametrize("is_patient", [True, False])
def test_a_commit_whose_answer_is_lost_is_not_repeated(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch, is_patient: bool
) -> None:
    """Lose the answer to a commit, within the patience of the storage and beyond it."""

    def loses(session: Any) -> None:
        commit(session)
        if not lost and not session.held:
            lost.append(session)
            raise sqlalchemy.exc.OperationalError("COMMIT", {}, RuntimeError("server closed the connection"))

    flush_study(study)
    lost: list[Any] = []
    trial = study.ask()
    trial.set_user_attr("outcome", "finished")
    study.tell(trial, 0.5)
    session_class = study._storage.database.scoped_session.session_factory.class_  # type: ignore[attr-defined]
    commit = session_class.commit
    with monkeypatch.context() as patched:
        patched.setattr(session_class, "commit", loses)
        if not is_patient:
            patched.setattr(study._storage.database, "_patience_s", 0.0)  # type: ignore[attr-defined]
            with pytest.raises(StorageError, match="has not answered for 0 s"):
                flush_study(study)
        flush_study(study)
    study.ask()
    flush_study(study)
    assert lost
    assert facts(read_again(study)) == facts(study.trials)
    assert [each.state for each in study.trials] == [TrialState.COMPLETE, TrialState.RUNNING]


def test_the_next_change_raises_what_the_thread_could_not_write(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        tried.set()
        raise sqlalchemy.exc.ProgrammingError("INSERT", {}, RuntimeError("disk image is malformed"))

    flush_study(study)
    tried = threading.Event()
    storage = study._storage
    assert isinstance(storage, WriteBehindStorage)
    with monkeypatch.context() as patched:
        patched.setattr(write_behind, "_DELAY_S", 0.0)
        patched.setattr(RDBStorage, "set_study_system_attr", fails)
        first = study.ask()
        assert tried.wait(60)
        with storage._writing:  # the thread has ended
            pass
        deadline = time.monotonic() + 60
        while storage._failure is None and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(StorageError, match=r"refuses a change: .*disk image is malformed"):
            first.set_user_attr("reason", "lost")
        close_study(study)
        assert "The newest changes of the study are in the journal only" in caplog.text
    assert "reason" not in study.trials[0].user_attrs
    first.set_user_attr("reason", "kept")
    flush_study(study)
    assert facts(read_again(study)) == facts(study.trials)


def test_one_thread_waits_for_a_database_that_is_away(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_away(*arguments: Any) -> Any:
        asked.set()
        assert is_back.wait(120)
        return carry_out(*arguments)

    def waiting() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "study-writer"]

    flush_study(study)
    asked, is_back, carry_out = threading.Event(), threading.Event(), study._storage.database.carry_out  # type: ignore[attr-defined]
    monkeypatch.setattr(study._storage.database, "carry_out", is_away)  # type: ignore[attr-defined]
    monkeypatch.setattr(write_behind, "_DELAY_S", 0.0)
    before = len(waiting())
    trial = study.ask()
    assert asked.wait(120)
    for step in range(5):
        trial.report(0.5, step)
        time.sleep(0.02)
    assert len(waiting()) - before <= 1
    is_back.set()
    deadline = time.monotonic() + 120
    while facts(read_again(study)) != facts(study.trials):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_another_program_that_creates_a_trial_is_noticed(study: optuna.Study) -> None:
    study.ask()
    optuna.load_study(study_name="s", storage=RDBStorage(database_of(study))).ask()
    with pytest.raises(StorageError, match="another program has created trial 0 in the study at sqlite"):
        flush_study(study)
    assert len(read_again(study)) == 1


def test_the_journal_has_a_report_before_the_study_and_a_killed_driver_loses_none(tmp_path: Path) -> None:
    session = Session(tmp_path / "s")
    trial = session.start("first")
    session.report(trial, 1)
    assert [event.epoch for event in session.ledger.events() if event.event == "trial_reported"] == [1]
    flush_study(session.study)
    session.report(trial, 2)
    session.kill()

    resumed = Session(tmp_path / "s")
    flush_study(resumed.study)
    assert resumed.stored()[0].intermediate_values == {1: 0.501, 2: 0.502}
    assert resumed.ledger.trial(0).status is TrialStatus.INTERRUPTED
    again = resumed.start("second")
    assert again.config["epochs_done"] == 2


def test_a_killed_driver_loses_no_report_of_several_objectives(tmp_path: Path) -> None:
    objectives = {"objective": [{"metric": "val/top1"}, {"metric": "val/loss"}]}
    session = Session(tmp_path / "s", **objectives)
    trial = session.start("first")
    session.report(trial, 1)
    flush_study(session.study)
    session.report(trial, 2)
    session.kill()

    resumed = Session(tmp_path / "s", **objectives)
    flush_study(resumed.study)
    stored = resumed.stored()[0]
    assert stored.intermediate_values == {}
    assert {name: value for name, value in stored.user_attrs.items() if name.startswith("epoch ")} == {
        "epoch 00001": {"val/top1": 0.501, "val/loss": 1.0},
        "epoch 00002": {"val/top1": 0.502, "val/loss": 0.5},
    }
    resumed.journal.close()
    (tmp_path / "s" / "optuna.db").unlink()
    rebuilt = Session(tmp_path / "s", **objectives)
    flush_study(rebuilt.study)
    assert rebuilt.stored()[0].user_attrs == stored.user_attrs


@pytest.mark.parametrize("written", [True, False])
def test_a_driver_killed_after_a_rejection_goes_on_as_one_that_is_not(tmp_path: Path, written: bool) -> None:
    limits = {"limits": {"max_params": 10_000}, "search": SWEEP["search"] | {"drop_path_rate": [0.0, 0.1]}}
    sessions = [Session(tmp_path / name, **limits) for name in ("undisturbed", "killed")]
    for session in sessions:
        session.searcher._start("a", session.study.ask(), RejectionStreak())
    assert sessions[0].ledger.rejected() == sessions[1].ledger.rejected() != []
    if written:
        flush_study(sessions[1].study)
    sessions[1].kill()
    resumed = Session(tmp_path / "killed", **limits)
    for session in (sessions[0], resumed):
        session.searcher._start("b", session.study.ask(), RejectionStreak())
        flush_study(session.study)
    assert without_times(resumed.stored()) == without_times(sessions[0].stored())


@pytest.mark.parametrize("written", [True, False])
def test_a_driver_killed_at_a_proposal_proposes_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    def dies(*_: Any, **__: Any) -> None:
        raise Killed

    undisturbed, session = Session(tmp_path / "undisturbed"), Session(tmp_path / "killed")
    for each in (undisturbed, session):
        trial = each.start("first")
        each.report(trial, 3)
        each.end(trial)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Ledger, "trial_started", dies)
        session.start("second")
    if written:
        flush_study(session.study)
    session.kill()
    resumed = Session(tmp_path / "killed")
    assert resumed.start("second").config == undisturbed.start("second").config
    for each in (resumed, undisturbed):
        flush_study(each.study)
    assert without_times(resumed.stored()) == without_times(undisturbed.stored())


def test_a_driver_killed_between_two_transactions_of_a_proposal_keeps_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, session = Session(tmp_path / "undisturbed"), Session(tmp_path / "killed")
    undisturbed.start("first")
    with monkeypatch.context() as patched:
        ask = session.study.ask
        patched.setattr(session.study, "ask", lambda: (ask(), flush_study(session.study))[0])
        session.start("first")
    session.kill()
    assert [trial.params for trial in session.stored()] == [{}]
    resumed = Session(tmp_path / "killed")
    resumed.start("second")
    flush_study(resumed.study)
    assert resumed.stored()[0].params == undisturbed.study.trials[0].params
    assert resumed.stored()[0].distributions == undisturbed.study.trials[0].distributions


def test_a_trial_of_another_program_in_the_place_of_one_is_refused(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.start("first")
    session.kill()
    other = optuna.load_study(study_name="s", storage=RDBStorage(f"sqlite:///{tmp_path}/optuna.db"))
    other.enqueue_trial({"lr": 0.009})
    with pytest.raises(ResumeError, match=r"trial 0 of the Optuna study 's' has lr=0.009, in the journal 0.00"):
        Session(tmp_path)


def test_a_study_without_a_database_has_nothing_to_write() -> None:
    study = optuna.create_study()
    trial = study.ask()
    flush_notes(study, trial)
    close_study(study)
    assert len(study.trials) == 1
