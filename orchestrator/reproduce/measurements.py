"""Measurements of a table: one trial for each row and seed, read from the folders of its sweeps."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.config.tasks.classification import CLASSIFICATION
from orchestrator.records.history import read_begun
from orchestrator.records.status import TrialStatus
from orchestrator.records.trials import TrialRecord
from orchestrator.reproduce.catalogue import Measure
from orchestrator.reproduce.sweeps import Cell, cell_of
from orchestrator.reproduce.table_folder import PlannedSweep
from orchestrator.results.stored_sweep import SweepState, read_sweep

__all__ = ["Measurement", "is_unfinished", "missing_seeds", "read_measurements"]

REJECTED = "rejected"
_DONE = (str(TrialStatus.FINISHED), str(TrialStatus.DIVERGED), REJECTED)
_LAYER = re.compile(r"^span/layer(\d+)_px$")
_SELECTION = CLASSIFICATION.objective


@dataclass(frozen=True)
class Measurement:
    """Trial of one row with one seed.

    Args:
        sweep: Name of its sweep.
        trial: Number of the trial.
        status: Status of the trial, or `rejected`.
        value: Measured quantity; None where the trial has none.
        epochs: Number of epochs trained.
        seconds: Seconds from its start to its end; None while it runs.
        reason: Reason why there is no value; else empty.
        layers: Learned span of each layer in pixels, of networks that have some.
    """

    sweep: str
    trial: int
    status: str
    value: float | None
    epochs: int
    seconds: float | None
    reason: str = ""
    layers: Sequence[float] = field(default=())

    @property
    def is_done(self) -> bool:
        """True if the trial would end in the same way again, so that it is not repeated."""
        return self.status in _DONE


def is_unfinished(sweep: PlannedSweep) -> bool:
    """Return whether a sweep has not begun, or was interrupted."""
    return not sweep.folder.has_begun or read_sweep(sweep.folder).state is not SweepState.FINISHED


def read_measurements(sweeps: Iterable[PlannedSweep], measure: Measure) -> dict[Cell, Measurement]:
    """Return the newest measurement of every row and seed; one that is done is kept.

    Args:
        sweeps: Sweeps of the table, oldest first.
        measure: Quantity that the table compares.

    Raises:
        JournalError: A line of a journal is damaged.
    """
    found: dict[Cell, Measurement] = {}
    for sweep in sweeps:
        if not sweep.folder.has_begun:
            continue
        for record in read_sweep(sweep.folder).result.records:
            cell = cell_of(record.params)
            if cell is not None and not (cell in found and found[cell].is_done):
                found[cell] = _measured(sweep.name, record, measure)
        for rejected in read_begun(sweep.folder.journal).rejected.values():
            cell = cell_of(rejected.params)
            if cell is not None:
                reason = f"{rejected.rule}: {rejected.reason}"
                found[cell] = Measurement(sweep.name, rejected.number, REJECTED, None, 0, None, reason)
    return found


def missing_seeds(found: Mapping[Cell, Measurement], rows: Iterable[str], seeds: Sequence[int]) -> dict[str, list[int]]:
    """Return the seeds that each row lacks.

    Args:
        found: Measurements by row and seed.
        rows: Names of the rows.
        seeds: Wanted seeds.
    """

    def lacks(row: str, seed: int) -> bool:
        return (row, seed) not in found or not found[row, seed].is_done

    return {row: [seed for seed in seeds if lacks(row, seed)] for row in rows}


def _measured(sweep: str, record: TrialRecord, measure: Measure) -> Measurement:
    report = _best_report(record) if record.status is TrialStatus.FINISHED else {}
    value = report.get(measure.metric)
    layers = sorted((int(name[1]), report[name[0]]) for name in map(_LAYER.match, report) if name)
    reason = record.reason
    if record.status is TrialStatus.FINISHED and value is None:
        reason = f"reported no {measure.metric}"
    return Measurement(
        sweep=sweep,
        trial=record.number,
        status=str(record.status),
        value=None if value is None else measure.of(value),
        epochs=record.epochs,
        seconds=None if record.ended_s is None else record.ended_s - record.started_s,
        reason=reason,
        layers=tuple(span for _, span in layers),
    )


def _best_report(record: TrialRecord) -> Mapping[str, float]:
    """Return the metrics of the best epoch, with those that only the last one has: the weights tested are the best."""
    if not record.reports:
        return {}
    best = max(record.reports, key=lambda report: report.get(_SELECTION, -math.inf))
    last = {name: value for name, value in record.reports[-1].items() if name.startswith("test/")}
    return {**best, **last}
