"""A driver without Ray, one lane of which reports as Tune does, and which may be killed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from orchestrator.lanes.tune_keys import EPOCH, FAILURES, HELD, LANE, NODES, REPORTED
from orchestrator.records.journal import Journal
from orchestrator.records.ledger import Ledger
from orchestrator.records.objectives import Objectives
from orchestrator.search.callback import SweepCallback
from orchestrator.search.searcher import StudySearcher
from orchestrator.search.storage import open_storage
from orchestrator.search.study import open_study
from orchestrator.search.study_replay import replay_study
from orchestrator.search.write_behind import flush_study
from tests.support.sweeps.killed_driver import lose_unwritten
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
        flush_study(self.study)
        self.searcher = StudySearcher(self.study, self.plan, self.ledger)
        hub = SimpleNamespace(release=SimpleNamespace(remote=lambda tune_id: None))
        self.callback = SweepCallback(self.searcher, self.study, self.objectives, self.ledger, hub)

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

    def kill(self) -> None:
        """Die with what is not in the database yet."""
        lose_unwritten(self.study)
        self.journal.close()

    def stored(self) -> list[FrozenTrial]:
        """Return the trials that another process sees."""
        return optuna.load_study(study_name="s", storage=RDBStorage(f"sqlite:///{self.folder}/optuna.db")).trials


def facts(trials: list[FrozenTrial]) -> list[Any]:
    names = ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs", "datetime_start")
    return [{**{name: getattr(each, name) for name in names}, "curve": each.intermediate_values} for each in trials]


def without_times(trials: list[FrozenTrial]) -> list[Any]:
    return [{name: value for name, value in each.items() if name != "datetime_start"} for each in facts(trials)]
