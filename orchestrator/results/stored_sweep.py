"""A sweep as its folder tells it: finished, running, or left by a driver that died."""

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
from orchestrator.errors import first_line
from orchestrator.files.home_paths import expanded_path
from orchestrator.files.runs_dir import resolve_runs_dir
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
    path = expanded_path(sweep or ".")
    if SweepFolder(path).has_begun:
        return SweepFolder(path.resolve())
    return existing_folder(resolve_runs_dir(runs_dir), str(sweep))


def read_sweep(folder: SweepFolder) -> StoredSweep:
    """Reads the journal of a sweep.

    Args:
        folder: Of the sweep.

    Raises:
        JournalError: A line of it is damaged.
    """
    alive = folder.is_driven  # asked first: a driver that ends meanwhile leaves a journal that says so
    story = read_begun(folder.journal)
    state = SweepState(story.ended) if story.ended else SweepState.RUNNING if alive else SweepState.DEAD
    last_s = story.spending.last_event_s
    now = time.time() if state is SweepState.RUNNING else last_s
    for number, trial in story.trials.items():  # those that have not ended too
        trial.cost = story.spending.cost(number, now)
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
        tracking_uri=recorded_address("tracking", story.config, folder.path.parent),
        records=records,
        run_ids=_run_ids(folder.path),
        ended_by=story.ended_by,
        so_far=story.spending.so_far(now),
        aims=aims,
        storage_uri=recorded_address("storage", story.config, folder.path.parent),
    )
    return StoredSweep(
        state=state,
        uid=story.uid,
        config=masked(story.config),
        facts=story.facts,
        result=result,
        age_s=max(0.0, time.time() - last_s),
        rejected=Counter(trial.rule for trial in story.rejected.values()),
    )


def _aims(config: Mapping[str, Any]) -> Objectives:
    written = config["objective"]
    objectives = map(ObjectiveConfig.model_validate, written if isinstance(written, list) else [written])
    return Objectives(tuple(objectives), {text: parse_constraint(text) for text in config.get("constraints") or ()})


def _end_orphans(records: Sequence[TrialRecord], ended_s: float) -> None:
    for record in records:
        if record.status is TrialStatus.RUNNING:
            record.status, record.reason, record.ended_s = TrialStatus.INTERRUPTED, _DRIVER_DIED, ended_s


def _run_ids(folder: Path) -> dict[int, str]:
    """MLflow runs of the trials, which the last table of the sweep names."""
    path = folder / "trials.parquet"
    if not path.exists():
        return {}
    try:
        rows = pq.ParquetFile(path).read(columns=["trial", "mlflow_run"]).cast(_RUN_IDS).to_pylist()
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        logger.warning(
            "%s cannot be read (%s): MLflow runs of the trials are not shown; `spatialsweep resume %s` writes it anew",
            path,
            first_line(error),
            folder.name,
        )
        return {}
    return {row["trial"]: row["mlflow_run"] for row in rows if None not in row.values()}
