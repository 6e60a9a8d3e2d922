"""Trials that the user paused, in a later session of a sweep in which nothing else is left to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.config.plans import resolve_plans
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.ledger import TrialStatus
from orchestrator.search.racing import race_state
from orchestrator.sweep import session as sweep_session
from orchestrator.sweep.compatibility import stored_config
from tests.orchestrator.search.test_steered_trials import Session

FREEZE_THAW: dict[str, Any] = {
    "trials": 9,
    "training": {"epochs": 9},
    "trial_scheduler": {"name": "freeze_thaw", "grace_epochs": 1},
    "sampler": {"name": "random"},
    "seed": 3,
}


class Connected(Exception):
    """A session has trials to train, and connects to Ray."""


def connects(session: Session, runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether a session of the sweep connects to Ray."""

    def ray_session(*_arguments: Any, **_options: Any) -> None:
        raise Connected

    monkeypatch.setattr(sweep_session, "ray_session", ray_session)
    folder = SweepFolder(runs_dir / "s")
    config = stored_config(folder, contacted=())
    found = sweep_session.SweepSession(
        config,
        resolve_plans(config),
        folder,
        session.ledger,
        dataset="",
        console=Console(quiet=True),
        signals=session.signals,
        notifications=None,  # type: ignore[arg-type]  # not asked for here
    )
    try:
        with found.connected(None):
            return False
    except Connected:
        return True


def test_a_trial_paused_by_the_user_is_trained_to_its_end_where_freeze_thaw_has_spent_its_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(tmp_path, **FREEZE_THAW)
    session.epoch()
    session.request(kind="pause", trial=0)
    session.run()
    held = session.ledger.trial(0)
    assert held.status is TrialStatus.PAUSED
    assert held.epochs < 3
    assert session.ledger.count_configurations() == 9
    assert connects(session, tmp_path, monkeypatch)
    session.close()

    session = Session(tmp_path)
    session.run()
    assert (session.status(0), session.ledger.trial(0).epochs) == (TrialStatus.FINISHED, 9)
    assert not connects(session, tmp_path, monkeypatch)
    session.close()


def test_a_trial_that_freeze_thaw_paused_trains_on_where_the_user_resumes_it_beyond_its_epochs(tmp_path: Path) -> None:
    session = Session(tmp_path, **FREEZE_THAW)
    while session.search._allocation.next_trial() is not None or not session.ledger.count_paused():  # type: ignore[union-attr]
        session.epoch()
    number = next(record.number for record in session.ledger.trials() if record.status is TrialStatus.PAUSED)
    assert session.request(kind="resume", trial=number).done
    session.run()
    assert session.status(number) is TrialStatus.FINISHED
    session.close()


@pytest.mark.parametrize("scheduler", ["none", "freeze_thaw"])
def test_a_further_seed_paused_by_the_user_is_trained_in_a_later_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str
) -> None:
    changes = {**FREEZE_THAW, "seeds": 2, "trial_scheduler": {"name": scheduler, "grace_epochs": 1}}
    session = Session(tmp_path, **changes)
    while not any(record.is_repeat for record in session.ledger.running()):
        session.epoch()
    number = next(record.number for record in session.ledger.running() if record.is_repeat)
    session.request(kind="pause", trial=number)
    session.run()
    assert session.status(number) is TrialStatus.PAUSED
    assert race_state(session.plan, session.ledger.trials()).is_over
    assert connects(session, tmp_path, monkeypatch)
    session.close()

    session = Session(tmp_path)
    session.run()
    assert (session.status(number), session.ledger.trial(number).epochs) == (TrialStatus.FINISHED, 9)
    assert not connects(session, tmp_path, monkeypatch)
    session.close()
