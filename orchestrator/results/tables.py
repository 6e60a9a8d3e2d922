"""Tables of a sweep: one row per trial, and one per trial, epoch and metric; each column has a description."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.config.tasks.facts import TaskFacts
from orchestrator.files.atomic_files import atomic_file
from orchestrator.records.ledger import TrialRecord
from orchestrator.results.configuration_result import ConfigurationResult

if TYPE_CHECKING:
    from orchestrator.results.sweep_result import TrialResult


def _column(name: str, kind: pa.DataType, description: str) -> pa.Field:
    return pa.field(name, kind, metadata={"description": description})


_TRIALS = pa.schema(
    [
        _column("trial", pa.int64(), "Optuna's number, from 0"),
        _column("status", pa.string(), "running, paused, finished, pruned, diverged, failed or interrupted"),
        _column("model", pa.string(), "name of the network"),
        _column("value", pa.float64(), "best value of the (first) objective over the epochs"),
        _column("values", pa.string(), "every objective at the best epoch, as a JSON object"),
        _column("feasible", pa.bool_(), "whether the best epoch keeps the constraints"),
        _column("best_epoch", pa.int64(), "epoch of that value, from 1"),
        _column("epochs", pa.int64(), "epochs trained"),
        _column("test", pa.string(), "metrics of the best epoch's weights on the test images, as a JSON object"),
        _column("params", pa.string(), "searched names and their values, as a JSON object"),
        _column("reason", pa.string(), "of a failure, or where the loss stopped being a number"),
        _column("started_s", pa.float64(), "Unix time of the proposal, in seconds"),
        _column("duration_s", pa.float64(), "seconds from the proposal to the end"),
        _column("held_s", pa.float64(), "seconds the trial held its lane, over all stretches of the sweep"),
        _column("cpu_s", pa.float64(), "CPUs reserved times held_s"),
        _column("gpu_s", pa.float64(), "GPUs reserved times held_s"),
        _column("price", pa.float64(), "at budget.price_per_cpu_hour and budget.price_per_gpu_hour; null without them"),
        _column("tune_trial", pa.string(), "Ray Tune's id"),
        _column("mlflow_run", pa.string(), "id of the trial's MLflow run"),
        _column("checkpoint", pa.string(), "file with the best epoch's weights"),
        _column("configuration", pa.int64(), "trial that trained the same configuration with the first seed"),
        _column("replicate", pa.int64(), "index of the trial's seed among those of its configuration, from 0"),
        _column("seed", pa.int64(), "seed of the initial weights and of the order of the images"),
        _column("mean", pa.float64(), "of value over the seeds of the configuration; null with one seed"),
        _column("ci_low", pa.float64(), "lower end of the 95% interval of that mean (Student's t)"),
        _column("ci_high", pa.float64(), "upper end of that interval"),
        _column("seeds", pa.int64(), "seeds that the mean is of"),
        _column("all_seeds", pa.bool_(), "whether these are all seeds of the sweep"),
    ]
)

REPORTS = pa.schema(
    [
        _column("trial", pa.int64(), "Optuna's number, from 0"),
        _column("epoch", pa.int64(), "from 1"),
        _column("metric", pa.string(), "such as val/top1; docs/tracking.md lists them"),
        _column("value", pa.float64(), "of the metric at the end of the epoch"),
    ]
)


def trials_schema(task: TaskFacts) -> pa.Schema:
    """Return the columns of the table of trials; the primary metric of the task has one of its own.

    Args:
        task: Task of the sweep.
    """
    primary = task.primary
    own = _column(
        f"test_{primary.name}",
        pa.float64(),
        f"{primary.in_words} of the best epoch's weights on the test images, of a finished trial",
    )
    return _TRIALS.insert(_TRIALS.get_field_index("test"), own)


def trials_table(rows: Iterable[tuple[TrialRecord, TrialResult]], metric: str, task: TaskFacts) -> pa.Table:
    """Build the table with a row per trial.

    Args:
        rows: Record and result of every trial.
        metric: Metric of the first objective.
        task: Task of the sweep.
    """
    primary = task.primary.name
    found = [
        _trial_row(record, result, metric) | {f"test_{primary}": record.test.get(primary)} for record, result in rows
    ]
    return pa.Table.from_pylist(found, schema=trials_schema(task))


def reports_table(records: Sequence[TrialRecord]) -> pa.Table:
    """Build the table with a row per trial, epoch and metric."""
    rows = [
        {"trial": record.number, "epoch": int(report["epoch"]), "metric": key, "value": value}
        for record in records
        for report in record.reports
        for key, value in report.items()
        if key != "epoch"
    ]
    return pa.Table.from_pylist(rows, schema=REPORTS)


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write a table as Parquet, completely or not at all."""
    with atomic_file(path) as partial:
        pq.write_table(table, partial)


def _trial_row(record: TrialRecord, result: TrialResult, metric: str) -> dict[str, Any]:
    at_best = (report["epoch"] for report in record.reports if report.get(metric) == result.value)
    ended_s = record.ended_s if record.ended_s is not None else record.started_s
    return {
        "trial": record.number,
        "status": str(record.status),
        "model": record.config["model"]["name"],
        "value": result.value,
        "values": json.dumps(dict(result.values)),
        "feasible": result.feasible,
        "best_epoch": next(map(int, at_best), None),
        "epochs": record.epochs,
        "test": json.dumps(record.test),
        "params": json.dumps(dict(record.params)),
        "reason": record.reason or None,
        "started_s": record.started_s,
        "duration_s": ended_s - record.started_s,
        "held_s": record.cost.held_s,
        "cpu_s": record.cost.cpu_s,
        "gpu_s": record.cost.gpu_s,
        "price": record.cost.price,
        "tune_trial": record.tune_id,
        "mlflow_run": result.mlflow_run,
        "checkpoint": str(result.checkpoint) if result.checkpoint else None,
        "configuration": record.configuration,
        "replicate": record.replicate,
        "seed": record.config.get("seed"),
        **_over_seeds(result.configuration),
    }


def _over_seeds(found: ConfigurationResult | None) -> dict[str, Any]:
    """Return the columns of a configuration with several seeds; none for another."""
    if found is None:
        return {}
    return {
        "mean": found.mean,
        "ci_low": found.ci_low,
        "ci_high": found.ci_high,
        "seeds": len(found.values),
        "all_seeds": found.complete,
    }
