"""A sweep as its folder tells it: finished, running, or left by a driver that died."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from orchestrator.config.objective import ObjectiveConfig, parse_constraint
from orchestrator.ledger import TrialRecord, TrialStatus, fold
from orchestrator.objectives import Aims
from orchestrator.results import SweepResult
from orchestrator.runs_dir import resolve_runs_dir
from orchestrator.spending import SESSION_STARTS, Spending
from orchestrator.sweep_folder import SweepFolder, existing_folder
from orchestrator.tracking.addresses import embedded_uri
from orchestrator.tracking.journal import read_events
from orchestrator.uris import masked

_DRIVER_DIED = "the driver of the sweep died"


class SweepState(StrEnum):
    """How a sweep stands."""

    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    DEAD = "dead"


@dataclass(frozen=True)
class StoredSweep:
    """What the folder of a sweep says.

    Args:
        state: How it stands; `dead` when its driver died.
        uid: Identifies the sweep in MLflow, whatever its name.
        config: Its settings, without passwords.
        facts: Versions and revision it was started with.
        result: Everything found until now.
        age_s: Seconds since its last event.
        rejected: Configurations that were not worth a trial, by the setting or limit they break.
    """

    state: SweepState
    uid: str
    config: Mapping[str, Any] = field(repr=False)
    facts: Mapping[str, str] = field(repr=False)
    result: SweepResult = field(repr=False)
    age_s: float = 0.0
    rejected: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the sweep and of its folder."""
        return self.result.name

    @property
    def folder(self) -> Path:
        """Of the sweep."""
        return self.result.folder


@dataclass
class _Story:
    """The events of a journal, put together."""

    name: str = ""
    uid: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    rejected: dict[int, str] = field(default_factory=dict)
    spending: Spending = field(default_factory=Spending)
    ended: TrialStatus | None = None
    ended_by: str = ""

    def fold(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind in SESSION_STARTS:
            self.name, self.uid = event.get("name", self.name), event.get("uid", self.uid)
            self.config, self.facts = masked(event.get("config") or self.config), event.get("facts") or self.facts
            self.ended, self.ended_by = None, ""
        elif kind == "budget_spent":
            self.ended_by = event["reason"]
        elif kind == "trial_rejected":
            self.rejected[event["trial"]] = event["rule"]
        elif kind == "sweep_ended":
            self.ended = TrialStatus(event["status"])
        fold(self.trials, event)
        self.spending.fold(event)

    def count_costs(self, now: float) -> None:
        """Gives every trial its cost, those that have not ended too."""
        for number, trial in self.trials.items():
            trial.cost = self.spending.cost(number, now)


def load_result(sweep: str | Path, runs_dir: str | Path | None = None) -> SweepResult:
    """Reads a sweep back: a finished one, one that runs, or one whose driver died.

    Args:
        sweep: Its name, or its folder.
        runs_dir: Where sweeps of that name are kept; None takes the default.

    Raises:
        SweepNameError: There is no such sweep; the nearest name is told.
    """
    return read_sweep(find_sweep(sweep, runs_dir)).result


def find_sweep(sweep: str | Path, runs_dir: str | Path | None = None) -> SweepFolder:
    """The folder of a sweep, by its name or its path.

    Raises:
        SweepNameError: There is no such sweep; the nearest name is told.
    """
    if SweepFolder(Path(sweep)).has_begun:
        return SweepFolder(Path(sweep).resolve())
    return existing_folder(resolve_runs_dir(runs_dir), str(sweep))


def read_sweep(folder: SweepFolder) -> StoredSweep:
    """Reads the journal of a sweep.

    Args:
        folder: Of the sweep.
    """
    alive = folder.is_driven  # asked first: a driver that ends meanwhile leaves a journal that says so
    story = _Story()
    for event, _ in read_events(folder.journal):
        story.fold(event)
    state = SweepState(story.ended) if story.ended else SweepState.RUNNING if alive else SweepState.DEAD
    last_s = story.spending.last_event_s
    now = time.time() if state is SweepState.RUNNING else last_s
    story.count_costs(now)
    records = [story.trials[number] for number in sorted(story.trials)]
    if state is SweepState.DEAD:
        _end_orphans(records, last_s)
    aims = _aims(story.config)
    result = SweepResult(
        name=folder.name,
        folder=folder.path,
        metric=aims.objectives[0].metric,
        mode=aims.objectives[0].mode,
        status=TrialStatus.INTERRUPTED if state is SweepState.DEAD else TrialStatus(state),
        tracking_uri=story.config.get("tracking", {}).get("uri") or embedded_uri(folder.path.parent),
        records=records,
        run_ids=_run_ids(folder.path),
        ended_by=story.ended_by,
        so_far=story.spending.so_far(now),
        aims=aims,
        storage_uri=recorded_study_uri(story.config, folder.path.parent),
    )
    return StoredSweep(
        state=state,
        uid=story.uid,
        config=story.config,
        facts=story.facts,
        result=result,
        age_s=max(0.0, time.time() - last_s),
        rejected=Counter(story.rejected.values()),
    )


def recorded_study_uri(config: Mapping[str, Any], runs_dir: Path) -> str:
    """Database of a sweep's study, without a password.

    Args:
        config: Settings of the sweep, as recorded.
        runs_dir: Folder of all results.
    """
    return (config.get("storage") or {}).get("uri") or f"sqlite:///{(runs_dir / 'optuna.db').resolve()}"


def _aims(config: Mapping[str, Any]) -> Aims:
    written = config["objective"]
    objectives = map(ObjectiveConfig.model_validate, written if isinstance(written, list) else [written])
    return Aims(tuple(objectives), {text: parse_constraint(text) for text in config.get("constraints") or ()})


def _end_orphans(records: Sequence[TrialRecord], ended_s: float) -> None:
    for record in records:
        if record.status is TrialStatus.RUNNING:
            record.status, record.reason, record.ended_s = TrialStatus.INTERRUPTED, _DRIVER_DIED, ended_s


def _run_ids(folder: Path) -> dict[int, str]:
    """MLflow runs of the trials, which the last table of the sweep names."""
    path = folder / "trials.parquet"
    if not path.exists():
        return {}
    rows = pq.read_table(path, columns=["trial", "mlflow_run"]).to_pylist()
    return {row["trial"]: row["mlflow_run"] for row in rows if row["mlflow_run"] is not None}
