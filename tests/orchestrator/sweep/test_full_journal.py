"""End of a session whose journal has no room for it: everything is closed all the same."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.config import load_sweep
from orchestrator.config.plans import resolve_plans
from orchestrator.errors import StorageFullError
from orchestrator.notify.notifications import Notifications
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger, TrialStatus
from orchestrator.records.settings.stored_config import complete_settings
from orchestrator.sweep.run import _run_tracked
from orchestrator.sweep.search_supervisor import SearchSupervisor
from orchestrator.sweep.session import SweepSession
from tests.orchestrator.notify.test_webhook import receiver
from tests.support.sweeps.fake_sweeps import PLAN


def refuse(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_session_without_room_for_its_end_is_notified_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.notify.notifications._DRAIN_S", 60.0)
    folder = SweepFolder(tmp_path / "runs" / "s")
    folder.scratch.mkdir(parents=True)
    with receiver(200) as webhook, Journal(folder.journal, gives_up=lambda: True) as journal:
        config = load_sweep({**PLAN, "name": "s", "runs_dir": str(tmp_path / "runs"), "notify": webhook.url})
        plans, ledger = resolve_plans(config), Ledger(journal)
        ledger.sweep_started("s", complete_settings(config), {}, {})
        notifications = Notifications(
            plans.notify, ledger, name="s", objective=plans.search.objective, say=lambda _: None
        )

        def run() -> TrialStatus:
            monkeypatch.setattr(os, "fsync", refuse)
            return TrialStatus.FINISHED

        session = cast(SweepSession, SimpleNamespace(run=run))
        with pytest.raises(StorageFullError, match=r"the disk is full: .*journal\.jsonl"):
            _run_tracked(session, plans, folder, ledger, notifications=notifications, hint=contextlib.nullcontext())
        assert [body["event"] for body in webhook.bodies] == ["sweep_started", "sweep_failed"]
    assert not folder.scratch.exists()
    assert not [thread for thread in threading.enumerate() if thread.name == "mlflow-writer"]


def test_lanes_are_closed_where_the_ends_of_trials_cannot_be_recorded(tmp_path: Path) -> None:
    closed: list[Any] = []

    def end(reason: str) -> None:
        closed.append(reason)
        raise StorageFullError("the disk is full")

    search: Any = SimpleNamespace(end=end, join=lambda: closed.append("search"))
    lanes: Any = SimpleNamespace(close=lambda _timeout_s: closed.append("lanes"))
    signals: Any = SimpleNamespace(urgent=True)
    with Journal(tmp_path / "journal.jsonl") as journal:
        rest: dict[str, Any] = {"budget": None, "say": closed.append, "polls": ()}
        supervisor = SearchSupervisor(search, lanes, Ledger(journal), signals=signals, **rest)
        with pytest.raises(StorageFullError):
            supervisor.close()
    assert closed == ["the sweep is over", "lanes", "search"]
