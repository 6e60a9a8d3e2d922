"""What a sweep found: the best trial, tables of trials and reports, and the way back to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from orchestrator.config.sections.objective import ObjectiveConfig
from orchestrator.errors import CheckpointError
from orchestrator.records.costs import NO_COST, NOTHING_YET, Cost, SoFar
from orchestrator.records.folder.trial_folder import trial_folder
from orchestrator.records.ledger import TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.results.tables import reports_table, trials_table, write_parquet

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn


@dataclass(frozen=True)
class TrialResult:
    """One trial of a finished sweep.

    Args:
        number: Optuna's number.
        status: How it ended.
        params: Searched values.
        value: Best value of the (first) objective over its epochs; None when no epoch was finished.
        values: Every objective at that epoch.
        feasible: Whether that epoch keeps the constraints.
        test_top1: Accuracy on the test images; None unless it was trained to the end.
        epochs: Epochs trained.
        mlflow_run: Id of its MLflow run.
        checkpoint: File with its best weights; None when there is none.
        cost: Devices times seconds.
    """

    number: int
    status: TrialStatus
    params: Mapping[str, Any]
    value: float | None
    test_top1: float | None
    epochs: int
    mlflow_run: str | None
    checkpoint: Path | None
    cost: Cost = NO_COST
    values: Mapping[str, float] = field(default_factory=dict)
    feasible: bool = True

    def load_model(self) -> nn.Module:
        """The trained network, in evaluation mode on the CPU.

        Raises:
            CheckpointError: The trial left no checkpoint.
        """
        from orchestrator.training.checkpoints.checkpoints import load_network_file

        if self.checkpoint is None:
            raise CheckpointError(f"trial {self.number} left no checkpoint")
        return load_network_file(self.checkpoint)


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
        ended_by: What the budget said when it ended the sweep; empty when it did not.
        so_far: Time and devices spent.
        aims: Objectives and constraints; None where only the metric is known.
        storage_uri: Database of the study; may hold a password.
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
    ended_by: str = ""
    so_far: SoFar = NOTHING_YET
    aims: Objectives | None = None
    storage_uri: str = field(default="", repr=False)

    @property
    def pareto_front(self) -> list[TrialResult]:
        """Finished trials that keep the constraints and that no other beats in every objective; best first."""
        return [self._result(record) for record in self._aims.pareto_front(self.records)]

    @property
    def importance(self) -> dict[str, float]:
        """How much each searched name decides, most first, as shares of 1; empty before two trials have finished.

        Raises:
            StorageError: The study's database does not answer.
            ConfigError: Only the sweep's journal names that database.
        """
        from orchestrator.records.folder.recorded_addresses import require_confirmed
        from orchestrator.search.importance import importance_of

        require_confirmed(self.storage_uri, self.folder.parent, section="storage", sweep=self.name)
        return importance_of(self.name, self.storage_uri)

    @property
    def best(self) -> TrialResult | None:
        """The best trial that keeps the constraints and was trained to the end; None when none reported.

        Where there is none such, one that keeps them goes before one that was trained to the end.
        """
        ranked = self.ranking()

        def rank(trial: TrialResult) -> tuple[bool, bool]:
            return not trial.feasible, trial.status is not TrialStatus.FINISHED

        return min(ranked, key=rank, default=None)

    def ranking(self) -> list[TrialResult]:
        """Trials with a value, best first; those beyond a constraint come last.

        Trials trained to the end win ties, then those with the fewer epochs.
        """
        scored = [record for record in self.records if record.best(self.metric, self.mode) is not None]
        return [self._result(record) for record in sorted(scored, key=self._aims.rank)]

    def top(self, count: int) -> list[TrialResult]:
        """The best trials, at most so many, best first."""
        return self.ranking()[:count]

    def trial(self, number: int) -> TrialResult:
        """A trial by its number.

        Raises:
            KeyError: There is no such trial.
        """
        for record in self.records:
            if record.number == number:
                return self._result(record)
        raise KeyError(f"{self.name} has no trial {number}")

    def load_model(self, trial: int | None = None) -> nn.Module:
        """The network a trial has trained, in evaluation mode on the CPU.

        Args:
            trial: Its number; None takes the best.

        Raises:
            KeyError: There is no such trial.
            CheckpointError: The trial left no checkpoint, or no trial has reported.
        """
        chosen = self.best if trial is None else self.trial(trial)
        if chosen is None:
            raise CheckpointError(f"no trial of {self.name} has finished an epoch")
        return chosen.load_model()

    @property
    def _aims(self) -> Objectives:
        return self.aims or Objectives(
            (ObjectiveConfig.model_validate({"metric": self.metric, "mode": self.mode}),), {}
        )

    @property
    def trials(self) -> pa.Table:
        """A row per trial; the columns are described in docs/results.md."""
        return trials_table(((record, self._result(record)) for record in self.records), self.metric)

    @property
    def reports(self) -> pa.Table:
        """A row per trial, epoch and metric."""
        return reports_table(self.records)

    def to_pandas(self) -> pd.DataFrame:
        """`trials` as a data frame, each searched name a column `params.<name>`."""
        import pandas as pd

        frame: pd.DataFrame = self.trials.to_pandas()
        params = pd.DataFrame([dict(record.params) for record in self.records]).add_prefix("params.")
        return pd.concat([frame.drop(columns="params"), params], axis=1)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from orchestrator.results.notebook_table import result_html

        return result_html(self)

    def write_tables(self) -> list[Path]:
        """Writes both tables as Parquet into the sweep's folder."""
        paths = [self.folder / "trials.parquet", self.folder / "reports.parquet"]
        for path, table in zip(paths, (self.trials, self.reports), strict=True):
            write_parquet(table, path)
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
            cost=record.cost,
            values=self._aims.values(record),
            feasible=self._aims.is_feasible(record),
        )
