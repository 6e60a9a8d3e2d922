"""Result of a sweep: best trial, ranking, tables of trials and reports, and loading of trained networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from orchestrator.config.sections.objective import ObjectiveConfig
from orchestrator.config.tasks.classification import CLASSIFICATION
from orchestrator.config.tasks.facts import TaskFacts
from orchestrator.errors import CheckpointError
from orchestrator.records.costs import NO_COST, NO_TOTALS, Cost, SweepTotals
from orchestrator.records.folder.trial_folder import trial_folder
from orchestrator.records.ledger import TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.results.configuration_result import ConfigurationResult
from orchestrator.results.tables import reports_table, trials_table, write_parquet
from orchestrator.seeds.configurations import Configuration, best_configuration, configurations

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn


@dataclass(frozen=True)
class TrialResult:
    """Result of one trial.

    Args:
        number: Optuna's number of the trial.
        status: Status of the trial.
        params: Searched values, by name.
        value: Best value of the first objective over the epochs; None when no epoch was finished.
        values: Value of every objective at that epoch, by metric.
        feasible: Whether that epoch satisfies the constraints.
        test: Metrics on the test images, such as `top1`; empty unless the trial was trained to the end.
        epochs: Number of epochs trained.
        mlflow_run: Id of its MLflow run.
        checkpoint: Path of its best weights; None when there is no checkpoint.
        cost: Devices times seconds.
        configuration: Result of its configuration over all seeds; None where that was trained with one seed only.
    """

    number: int
    status: TrialStatus
    params: Mapping[str, Any]
    value: float | None
    test: Mapping[str, float]
    epochs: int
    mlflow_run: str | None
    checkpoint: Path | None
    cost: Cost = NO_COST
    values: Mapping[str, float] = field(default_factory=dict)
    feasible: bool = True
    configuration: ConfigurationResult | None = None

    @property
    def test_top1(self) -> float | None:
        """Top-1 accuracy of a classifier on the test images; None where it was not measured."""
        return self.test.get("top1")

    @property
    def test_top5(self) -> float | None:
        """Top-5 accuracy of a classifier on the test images; None where it was not measured."""
        return self.test.get("top5")

    def load_model(self, *, allow_code: bool = False) -> nn.Module:
        """Load the trained network, in evaluation mode on the CPU.

        Args:
            allow_code: Run the source code of a network that the user has not run before, see `load_model`.

        Raises:
            CheckpointError: The trial left no checkpoint.
        """
        from orchestrator.training.checkpoints.checkpoints import load_network_file

        if self.checkpoint is None:
            raise CheckpointError(f"trial {self.number} left no checkpoint")
        return load_network_file(self.checkpoint, allow_code=allow_code)


@dataclass(frozen=True)
class SweepResult:
    """Result of a sweep.

    Args:
        name: Name of the sweep.
        folder: Folder with `trials.parquet`, `reports.parquet`, the journal and the checkpoints.
        metric: Metric of the first objective.
        mode: `max` or `min`.
        status: `finished`, or `interrupted` when the sweep was ended early.
        tracking_uri: Address of MLflow, where the runs are recorded.
        records: Every trial, ordered by number.
        run_ids: MLflow run of each trial, by number.
        notice: Notice for the user, such as events that the tracking server did not accept; else empty.
        ended_by: Limit of the budget that ended the sweep; empty when none did.
        so_far: Time, devices and best value until now.
        objectives: Objectives and constraints; None when only the metric is known.
        storage_uri: Database of the study; may hold a password.
        seeds: Number of seeds with which the configurations that may be the best are trained.
        task: Facts of its task, by which metrics are named and written.
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
    so_far: SweepTotals = NO_TOTALS
    objectives: Objectives | None = None
    storage_uri: str = field(default="", repr=False)
    seeds: int = 1
    task: TaskFacts = field(default=CLASSIFICATION, repr=False)

    @property
    def pareto_front(self) -> list[TrialResult]:
        """Finished, feasible trials that no other dominates; best first in the first objective."""
        return [self._result(record) for record in self._objectives.pareto_front(self.records)]

    @property
    def importance(self) -> dict[str, float]:
        """Importance of each searched name as a share of 1, largest first; empty before two trials have finished.

        Raises:
            StorageError: The study's database does not answer.
            ConfigError: Only the journal of the sweep names that database, not the user.
        """
        from orchestrator.records.folder.recorded_addresses import require_confirmed
        from orchestrator.results.importance import importance_of

        require_confirmed(self.storage_uri, self.folder.parent, section="storage", sweep=self.name)
        return importance_of(self.name, self.storage_uri)

    @property
    def best(self) -> TrialResult | None:
        """Best trial that is feasible and was trained to the end; None when no trial has reported.

        Without such a trial, feasible trials are preferred to trials trained to the end. Where configurations were
        trained with several seeds it is a trial, that with the last seed, of the configuration with the best mean over
        all seeds; before one has all seeds, it is the best trial of the first seed.
        """
        found = self._configurations if self.has_repeats else []
        of_all_seeds = best_configuration(found, self.seeds)
        if of_all_seeds is not None:
            return self._result(of_all_seeds.finished[-1])

        def rank(record: TrialRecord) -> tuple[bool, bool]:
            return not self._objectives.is_feasible(record), record.status is not TrialStatus.FINISHED

        found_first = min((record for record in self._ranked() if record.repeats is None), key=rank, default=None)
        return None if found_first is None else self._result(found_first)

    @property
    def has_repeats(self) -> bool:
        """True if a configuration was trained with several seeds."""
        return any(record.is_repeat for record in self.records)

    def configurations(self) -> list[ConfigurationResult]:
        """Return the configurations with a value, each over its seeds.

        Those trained with all seeds come first, best mean first, then the others, by the mean of the seeds they have.
        """
        found = [ConfigurationResult.of(each, self.seeds) for each in self._configurations]
        sign = -1.0 if self.mode == "max" else 1.0
        valued = [each for each in found if each.mean is not None]
        return sorted(valued, key=lambda each: (not each.complete, sign * (each.mean or 0.0), each.number))

    def leaderboard(self, count: int) -> list[TrialResult]:
        """Return the best trials, best first, or a trial of each of the best configurations if there are repeats.

        Args:
            count: Largest number of trials.
        """
        if not self.has_repeats:
            return self.top(count)
        return [self.trial(each.trials[-1]) for each in self.configurations()[:count]]

    def ranking(self) -> list[TrialResult]:
        """Return the trials with a value, best first; infeasible trials come last.

        Among equals, trials trained to the end come first, then those with fewer epochs.
        """
        return [self._result(record) for record in self._ranked()]

    def top(self, count: int) -> list[TrialResult]:
        """Return at most `count` trials, best first."""
        return [self._result(record) for record in self._ranked()[:count]]

    def trial(self, number: int) -> TrialResult:
        """Return a trial by its number.

        Raises:
            KeyError: There is no such trial.
        """
        if number not in self._by_number:
            raise KeyError(f"{self.name} has no trial {number}")
        return self._result(self._by_number[number])

    def load_model(self, trial: int | None = None, *, allow_code: bool = False) -> nn.Module:
        """Load the network that a trial has trained, in evaluation mode on the CPU.

        Args:
            trial: Number of the trial; None takes the best.
            allow_code: Run the source code of a network that the user has not run before, see `load_model`.

        Raises:
            KeyError: There is no such trial.
            CheckpointError: The trial left no checkpoint, or no trial has reported.
        """
        chosen = self.best if trial is None else self.trial(trial)
        if chosen is None:
            raise CheckpointError(f"no trial of {self.name} has finished an epoch")
        return chosen.load_model(allow_code=allow_code)

    @property
    def _objectives(self) -> Objectives:
        return self.objectives or Objectives(
            (ObjectiveConfig.model_validate({"metric": self.metric, "mode": self.mode}),), {}
        )

    @cached_property
    def _by_number(self) -> Mapping[int, TrialRecord]:
        return {record.number: record for record in self.records}

    @property
    def _configurations(self) -> list[Configuration]:
        return configurations(self.records, self._objectives)

    @cached_property
    def _repeated(self) -> Mapping[int, ConfigurationResult]:
        """Results of the configurations with several seeds, by number."""
        found = self._configurations if self.has_repeats else []
        return {each.number: ConfigurationResult.of(each, self.seeds) for each in found if each.repeats}

    @property
    def trials(self) -> pa.Table:
        """Table with a row per trial; docs/results.md describes the columns."""
        rows = ((record, self._result(record)) for record in self.records)
        return trials_table(rows, self.metric, self.task)

    @property
    def reports(self) -> pa.Table:
        """Table with a row per trial, epoch and metric."""
        return reports_table(self.records)

    def to_pandas(self) -> pd.DataFrame:
        """Return `trials` as a data frame, with a column `params.<name>` for each searched name."""
        import pandas as pd

        frame: pd.DataFrame = self.trials.to_pandas()
        params = pd.DataFrame([dict(record.params) for record in self.records]).add_prefix("params.")
        return pd.concat([frame.drop(columns="params"), params], axis=1)

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        from orchestrator.results.notebook_table import result_html

        return result_html(self)

    def write_tables(self) -> list[Path]:
        """Write both tables as Parquet into the folder of the sweep and return their paths."""
        paths = [self.folder / "trials.parquet", self.folder / "reports.parquet"]
        for path, table in zip(paths, (self.trials, self.reports), strict=True):
            write_parquet(table, path)
        return paths

    def _ranked(self) -> list[TrialRecord]:
        """Return the records of `ranking`: a result costs a look at the file system."""
        scored = [record for record in self.records if record.best(self.metric, self.mode) is not None]
        return sorted(scored, key=self._objectives.rank)

    def _result(self, record: TrialRecord) -> TrialResult:
        checkpoint = self.folder / "trials" / trial_folder(record.number) / "best.pt"
        return TrialResult(
            number=record.number,
            status=record.status,
            params=record.params,
            value=record.best(self.metric, self.mode),
            test=record.test,
            epochs=record.epochs,
            mlflow_run=self.run_ids.get(record.number),
            checkpoint=checkpoint if checkpoint.exists() else None,
            cost=record.cost,
            values=self._objectives.values(record),
            feasible=self._objectives.is_feasible(record),
            configuration=self._repeated.get(record.configuration),
        )
