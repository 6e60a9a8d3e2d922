"""What a sweep found: the best trial, tables of trials and reports, and the way back to a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import CheckpointError
from orchestrator.lanes.trial_folder import trial_folder
from orchestrator.ledger import TrialRecord, TrialStatus

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

_TRIAL_SCHEMA = pa.schema(
    [
        ("trial", pa.int64()),
        ("status", pa.string()),
        ("model", pa.string()),
        ("value", pa.float64()),
        ("best_epoch", pa.int64()),
        ("epochs", pa.int64()),
        ("test_top1", pa.float64()),
        ("params", pa.string()),
        ("reason", pa.string()),
        ("started_s", pa.float64()),
        ("duration_s", pa.float64()),
        ("tune_trial", pa.string()),
        ("mlflow_run", pa.string()),
        ("checkpoint", pa.string()),
    ]
)


@dataclass(frozen=True)
class TrialResult:
    """One trial of a finished sweep.

    Args:
        number: Optuna's number.
        status: How it ended.
        params: Searched values.
        value: Best value of the objective over its epochs; None when no epoch was finished.
        test_top1: Accuracy on the test images; None unless it was trained to the end.
        epochs: Epochs trained.
        mlflow_run: Id of its MLflow run.
        checkpoint: File with its best weights; None when there is none.
    """

    number: int
    status: TrialStatus
    params: Mapping[str, Any]
    value: float | None
    test_top1: float | None
    epochs: int
    mlflow_run: str | None
    checkpoint: Path | None

    def load_model(self) -> nn.Module:
        """The trained network, in evaluation mode on the CPU.

        Raises:
            CheckpointError: The trial left no checkpoint.
        """
        from orchestrator.training.checkpoints import load_model_file

        if self.checkpoint is None:
            raise CheckpointError(f"trial {self.number} left no checkpoint")
        return load_model_file(self.checkpoint)


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found.

    Args:
        name: Of the sweep, with its number.
        folder: Holds `trials.parquet`, `reports.parquet`, the journal and the checkpoints.
        metric: Of the objective.
        mode: `max` or `min`.
        status: `finished`, or `interrupted` when it was ended early.
        tracking_uri: Where its runs are recorded.
        records: Every trial, by number.
        run_ids: MLflow run of each trial.
        notice: What a user should know besides, such as events the tracking server did not take.
    """

    name: str
    folder: Path
    metric: str
    mode: str
    status: TrialStatus
    tracking_uri: str
    records: Sequence[TrialRecord] = field(repr=False)
    run_ids: Mapping[int, str] = field(repr=False)
    notice: str = ""

    @property
    def best(self) -> TrialResult | None:
        """The best trial that was trained to the end; else the best of all; None when none reported."""
        ranked = self.ranking()
        finished = [trial for trial in ranked if trial.status is TrialStatus.FINISHED]
        return next(iter(finished or ranked), None)

    def ranking(self) -> list[TrialResult]:
        """Trials with a value, best first; trials trained to the end win ties, then those with the fewer epochs."""
        sign = -1 if self.mode == "max" else 1
        scored = [(trial.value, trial) for trial in map(self._result, self.records) if trial.value is not None]
        order = sorted(
            scored, key=lambda row: (sign * row[0], row[1].status is not TrialStatus.FINISHED, row[1].epochs)
        )
        return [trial for _, trial in order]

    @property
    def trials(self) -> pa.Table:
        """A row per trial; the columns are described in docs/results.md."""
        return pa.Table.from_pylist([self._row(record) for record in self.records], schema=_TRIAL_SCHEMA)

    @property
    def reports(self) -> pa.Table:
        """A row per trial, epoch and metric."""
        rows = [
            {"trial": record.number, "epoch": int(report["epoch"]), "metric": key, "value": value}
            for record in self.records
            for report in record.reports
            for key, value in report.items()
            if key != "epoch"
        ]
        columns = [("trial", pa.int64()), ("epoch", pa.int64()), ("metric", pa.string()), ("value", pa.float64())]
        return pa.Table.from_pylist(rows, schema=pa.schema(columns))

    def to_pandas(self) -> pd.DataFrame:
        """`trials` as a data frame, each searched name a column `params.<name>`."""
        import pandas as pd

        frame: pd.DataFrame = self.trials.to_pandas()
        params = pd.DataFrame([dict(record.params) for record in self.records]).add_prefix("params.")
        return pd.concat([frame.drop(columns="params"), params], axis=1)

    def write_tables(self) -> list[Path]:
        """Writes both tables as Parquet into the sweep's folder."""
        paths = [self.folder / "trials.parquet", self.folder / "reports.parquet"]
        for path, table in zip(paths, (self.trials, self.reports), strict=True):
            partial = path.with_suffix(".partial")
            pq.write_table(table, partial)
            partial.replace(path)
        return paths

    def _result(self, record: TrialRecord) -> TrialResult:
        checkpoint = self.folder / "trials" / trial_folder(record.number) / "best.pt"
        return TrialResult(
            number=record.number,
            status=record.status,
            params=record.params,
            value=record.best(self.metric, self.mode),
            test_top1=record.test_top1,
            epochs=record.epochs,
            mlflow_run=self.run_ids.get(record.number),
            checkpoint=checkpoint if checkpoint.exists() else None,
        )

    def _row(self, record: TrialRecord) -> dict[str, Any]:
        result = self._result(record)
        at_best = [report["epoch"] for report in record.reports if report.get(self.metric) == result.value]
        ended_s = record.ended_s if record.ended_s is not None else record.started_s
        return {
            "trial": record.number,
            "status": str(record.status),
            "model": record.config["model"]["name"],
            "value": result.value,
            "best_epoch": int(at_best[0]) if at_best else None,
            "epochs": record.epochs,
            "test_top1": record.test_top1,
            "params": json.dumps(dict(record.params)),
            "reason": record.reason or None,
            "started_s": record.started_s,
            "duration_s": ended_s - record.started_s,
            "tune_trial": record.tune_id,
            "mlflow_run": result.mlflow_run,
            "checkpoint": str(result.checkpoint) if result.checkpoint else None,
        }
