"""Tables of trials in a report: the leaderboard and the Pareto front, with a small learning curve per row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.records.costs import NO_COST, Cost
from orchestrator.records.ledger import TrialRecord
from orchestrator.records.objectives import Objectives
from orchestrator.results.stored_sweep import StoredSweep
from orchestrator.results.sweep_result import TrialResult

MOST_ROWS = 25
MOST_PARAMS = 6
_HOUR_S = 3_600.0
NOTHING = "\N{EN DASH}"
_MISSING = "\N{DAGGER}"
_SPARK_POINTS = 40


@dataclass(frozen=True)
class Row:
    """Row of a table of trials.

    Args:
        rank: Rank, from 1.
        trial: Number of the trial.
        model: Name of the network.
        values: Every objective, as text.
        test: Primary metric on the test images, as text.
        epochs: Number of epochs trained.
        end: Status, as text.
        cost: Device time in the unit of the table, as text.
        params: Searched names and values, as text.
        spark: Learning curve, as points of an SVG polyline; empty below two epochs.
        is_best: Whether it is the best trial of the sweep.
        seeds: Number of seeds that the mean is of, as text; a dagger marks that seeds are missing.
        mean: Mean of the first objective over the seeds, as text.
        interval: 95% interval of the mean, as text.
    """

    rank: int
    trial: int
    model: str
    values: Sequence[str]
    test: str
    epochs: int
    end: str
    cost: str
    params: Sequence[tuple[str, str]]
    spark: str
    is_best: bool
    seeds: str = NOTHING
    mean: str = NOTHING
    interval: str = NOTHING


@dataclass(frozen=True)
class CostUnit:
    """Unit of device time.

    Args:
        name: Name of the unit, such as `CPU-min`.
        on_gpu: Whether GPU time is shown instead of CPU time.
        seconds: Length of the unit in seconds.
    """

    name: str
    on_gpu: bool
    seconds: float

    @classmethod
    def fit_for(cls, cost: Cost) -> CostUnit:
        """Choose a unit in which a cost is a short number."""
        device, seconds = ("GPU", cost.gpu_s) if cost.gpu_s else ("CPU", cost.cpu_s)
        short = seconds < 2 * _HOUR_S
        return cls(f"{device}-{'min' if short else 'h'}", device == "GPU", 60.0 if short else _HOUR_S)

    def of(self, cost: Cost) -> str:
        """Format a cost in this unit, without its name."""
        return f"{(cost.gpu_s if self.on_gpu else cost.cpu_s) / self.seconds:,.3g}"


class TrialRows:
    """Builder of the tables of trials.

    Args:
        sweep: Stored sweep.
        importance: Importance of the searched names; the most important are shown first.
    """

    def __init__(self, sweep: StoredSweep, importance: Mapping[str, float]) -> None:
        assert sweep.result.objectives is not None
        self._result = sweep.result
        self._objectives: Objectives = sweep.result.objectives
        self._best = sweep.result.best
        self._importance = importance
        self._records = {record.number: record for record in sweep.result.records}
        costs = [record.cost for record in sweep.result.records]
        self.unit = CostUnit.fit_for(max(costs, key=lambda cost: (cost.gpu_s, cost.cpu_s), default=NO_COST))

    def leaderboard(self) -> list[Row]:
        """Return rows of the best trials with a value; with several seeds, a row for each configuration."""
        return self._rows(self._result.leaderboard(MOST_ROWS))

    @property
    def has_repeats(self) -> bool:
        """True if a configuration was trained with several seeds."""
        return self._result.has_repeats

    def front(self) -> list[Row]:
        """Return rows of the Pareto front; none with a single objective."""
        return self._rows(self._result.pareto_front[:MOST_ROWS]) if len(self._objectives.configs) > 1 else []

    def _rows(self, trials: Sequence[TrialResult]) -> list[Row]:
        return [self._row(rank, trial, self._records[trial.number]) for rank, trial in enumerate(trials, start=1)]

    def _row(self, rank: int, trial: TrialResult, record: TrialRecord) -> Row:
        names = sorted(trial.params, key=lambda name: -self._importance.get(name, 0.0))
        params = {name: trial.params[name] for name in names if name != "model"}
        return Row(
            rank=rank,
            trial=trial.number,
            model=record.config["model"]["name"],
            values=[number(trial.values.get(metric)) for metric in self._objectives.metrics],
            test=self._test(trial),
            epochs=trial.epochs,
            end=trial.status.in_words + ("" if trial.feasible else ", beyond a constraint"),
            cost=self.unit.of(trial.cost),
            params=[
                (name, number(value) if isinstance(value, float) else str(value)) for name, value in params.items()
            ],
            spark=_spark(record, self._objectives.metrics[0]),
            is_best=self._best is not None and trial.number == self._best.number,
            **_over_seeds(trial),
        )

    def _test(self, trial: TrialResult) -> str:
        primary = self._result.task.primary
        return primary.text(trial.test[primary.name]) if primary.name in trial.test else NOTHING


def _over_seeds(trial: TrialResult) -> dict[str, str]:
    """Return the cells of a configuration with several seeds; none for another."""
    found = trial.configuration
    if found is None or found.mean is None:
        return {}
    cells = {"seeds": f"{len(found.values)}{'' if found.complete else _MISSING}", "mean": number(found.mean)}
    if found.ci_low is not None:
        cells["interval"] = f"{number(found.ci_low)} to {number(found.ci_high)}"
    return cells


def number(value: float | None) -> str:
    """Format a number with four significant digits."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _spark(record: TrialRecord, metric: str) -> str:
    """Return the learning curve as points of a polyline within 100 by 24."""
    values = [report[metric] for report in record.reports if math.isfinite(report.get(metric, math.nan))]
    if len(values) < 2:
        return ""
    step = max(1, len(values) // _SPARK_POINTS)
    values = [*values[:-1:step], values[-1]]
    low, high = min(values), max(values)
    width = 100 / (len(values) - 1)
    return " ".join(
        f"{index * width:.1f},{22 - 20 * (value - low) / (high - low or 1):.1f}" for index, value in enumerate(values)
    )
