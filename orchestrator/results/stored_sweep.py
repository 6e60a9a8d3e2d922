"""Sweep as stored in its folder: finished, running, or with a driver that died."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.config.sections.objective import ObjectiveConfig, parse_constraint
from orchestrator.config.tasks.registry import recorded_task
from orchestrator.errors import first_line
from orchestrator.files.home_paths import expanded_path
from orchestrator.files.runs_dir import resolve_runs_dir
from orchestrator.records.folder.live_progress import EpochProgress, read_live
from orchestrator.records.folder.recorded_addresses import recorded_address
from orchestrator.records.folder.sweep_folder import SweepFolder, existing_folder
from orchestrator.records.history import read_begun
from orchestrator.records.objectives import Objectives
from orchestrator.records.status import TrialStatus
from orchestrator.records.trials import TrialRecord
from orchestrator.results.sweep_result import SweepResult
from orchestrator.uris import masked

logger = logging.getLogger(__name__)

_RUN_IDS = pa.schema([("trial", pa.int64()), ("mlflow_run", pa.string())])
_DRIVER_DIED = "the driver of the sweep died"


class SweepState(StrEnum):
    """State of a stored sweep."""

    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    DEAD = "dead"


@dataclass(frozen=True)
class StoredSweep:
    """Sweep read from its folder.

    Args:
        state: State of the sweep; `dead` when its driver died.
        uid: Identifier of the sweep in MLflow.
        config: Settings, without passwords.
        facts: Versions of packages and revision of the code in the newest session.
        result: Results until now.
        age_s: Seconds since the last event.
        rejected: Number of rejected configurations, by the setting or limit they break.
        searched: Domains of the searched names; where they were changed while the sweep ran, all they ever held.
        progress: Progress of the epochs that train now, by trial; empty unless the sweep runs.
    """

    state: SweepState
    uid: str
    config: Mapping[str, Any] = field(repr=False)
    facts: Mapping[str, str] = field(repr=False)
    result: SweepResult = field(repr=False)
    age_s: float = 0.0
    rejected: Mapping[str, int] = field(default_factory=dict)
    searched: Mapping[str, Any] = field(default_factory=dict, repr=False)
    progress: Mapping[int, EpochProgress] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the sweep and of its folder."""
        return self.result.name

    @property
    def folder(self) -> Path:
        """Folder of the sweep."""
        return self.result.folder


def load_result(sweep: str | Path, runs_dir: str | Path | None = None) -> SweepResult:
    """Load the result of a sweep that is finished, running, or whose driver died.

    Args:
        sweep: Name or folder of the sweep.
        runs_dir: Folder of results in which to look up the name; None takes the default.

    Raises:
        SweepNameError: There is no such sweep; the message names the nearest one.
    """
    return read_sweep(find_sweep(sweep, runs_dir)).result


def find_sweep(sweep: str | Path, runs_dir: str | Path | None = None) -> SweepFolder:
    """Return the folder of a sweep, by its name or its path.

    Raises:
        SweepNameError: There is no such sweep; the message names the nearest one.
    """
    path = expanded_path(sweep or ".")
    if SweepFolder(path).has_begun:
        return SweepFolder(path.resolve())
    return existing_folder(resolve_runs_dir(runs_dir), str(sweep))


def read_sweep(folder: SweepFolder) -> StoredSweep:
    """Read a sweep from its journal.

    Args:
        folder: Folder of the sweep.

    Raises:
        JournalError: A line of the journal is damaged.
    """
    alive = folder.is_driven  # checked first: a driver that ends meanwhile records its end in the journal
    history = read_begun(folder.journal)
    state = SweepState(history.ended) if history.ended else SweepState.RUNNING if alive else SweepState.DEAD
    last_s = history.costs.last_event_s
    now = time.time() if state is SweepState.RUNNING else last_s
    for number, trial in history.trials.items():  # including those that have not ended
        trial.cost = history.costs.cost(number, now)
    records = [history.trials[number] for number in sorted(history.trials)]
    if state is SweepState.DEAD:
        _end_orphans(records, last_s)
    objectives = _objectives(history.config)
    result = SweepResult(
        name=folder.name,
        folder=folder.path,
        metric=objectives.configs[0].metric,
        mode=objectives.configs[0].mode,
        status=TrialStatus.INTERRUPTED if state is SweepState.DEAD else TrialStatus(state),
        tracking_uri=recorded_address("tracking", history.config, folder.path.parent),
        records=records,
        run_ids=_run_ids(folder.path),
        ended_by=history.ended_by,
        so_far=history.costs.totals(now),
        objectives=objectives,
        storage_uri=recorded_address("storage", history.config, folder.path.parent),
        seeds=int(history.config.get("seeds") or 1),
        task=recorded_task(history.config),
    )
    return StoredSweep(
        state=state,
        uid=history.uid,
        config=masked(history.config),
        searched=masked(history.searched if history.changed else history.config.get("search") or {}),
        facts=history.facts,
        result=result,
        age_s=max(0.0, time.time() - last_s),
        rejected=Counter(trial.rule for trial in history.rejected.values()),
        progress=read_live(folder.scratch) if state is SweepState.RUNNING else {},
    )


def _objectives(config: Mapping[str, Any]) -> Objectives:
    written = config["objective"]
    objectives = map(ObjectiveConfig.model_validate, written if isinstance(written, list) else [written])
    return Objectives(tuple(objectives), {text: parse_constraint(text) for text in config.get("constraints") or ()})


def _end_orphans(records: Sequence[TrialRecord], ended_s: float) -> None:
    for record in records:
        if record.status is TrialStatus.RUNNING:
            record.status, record.reason, record.ended_s = TrialStatus.INTERRUPTED, _DRIVER_DIED, ended_s


def _run_ids(folder: Path) -> dict[int, str]:
    """Return the MLflow runs of the trials, from the last table of the sweep."""
    path = folder / "trials.parquet"
    if not path.exists():
        return {}
    try:
        rows = pq.ParquetFile(path).read(columns=["trial", "mlflow_run"]).cast(_RUN_IDS).to_pylist()
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        logger.warning(
            "%s cannot be read (%s): MLflow runs of the trials are not shown; `spatialsweep resume %s` rewrites it",
            path,
            first_line(error),
            folder.name,
        )
        return {}
    return {row["trial"]: row["mlflow_run"] for row in rows if None not in row.values()}
