"""Value of a trial: the objectives at its best epoch, its constraint violations, its rank and the Pareto front.

Imports neither Optuna nor Ray: the study, the results and MLflow all use the values computed here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.config.sections.objective import Constraint, ObjectiveConfig, parse_constraint
from orchestrator.records.ledger import TrialRecord, TrialStatus


@dataclass(frozen=True)
class Objectives:
    """Objectives and constraints of a sweep.

    Args:
        configs: Objectives in order; the first one decides which epoch of a trial is its best.
        constraints: Constraints, by their text.
    """

    configs: tuple[ObjectiveConfig, ...]
    constraints: Mapping[str, Constraint]

    @classmethod
    def of(cls, configs: tuple[ObjectiveConfig, ...], constraints: Iterable[str]) -> Objectives:
        """Return the objectives of a sweep, with its constraints parsed.

        Args:
            configs: Objectives in order.
            constraints: Bounds on metrics as they are written.
        """
        return cls(configs, {text: parse_constraint(text) for text in constraints})

    @property
    def metrics(self) -> list[str]:
        """Metrics of the objectives, in order."""
        return [objective.metric for objective in self.configs]

    def values(self, record: TrialRecord) -> dict[str, float]:
        """Return the objectives at the best epoch, by metric, without those that are not finite."""
        report = self._best_report(record)
        known = {metric: report.get(metric, math.nan) for metric in self.metrics}
        return {metric: value for metric, value in known.items() if math.isfinite(value)}

    def violations(self, record: TrialRecord) -> dict[str, float]:
        """Return the violation of each constraint at the best epoch; empty before the first epoch."""
        report = self._best_report(record)
        return self.violations_of(report) if report else {}

    def violations_of(self, report: Mapping[str, float]) -> dict[str, float]:
        """Return the violation of each constraint by the metrics of an epoch; infinite where one is not known."""
        known = {text: report.get(constraint.metric, math.nan) for text, constraint in self.constraints.items()}
        return {
            text: self.constraints[text].violation(value) if math.isfinite(value) else math.inf
            for text, value in known.items()
        }

    def is_feasible(self, record: TrialRecord) -> bool:
        """Return whether the best epoch satisfies every constraint."""
        return all(violation <= 0 for violation in self.violations(record).values())

    def rank(self, record: TrialRecord) -> tuple[bool, float, bool, int]:
        """Return a sort key of trials, best first; infeasible trials come last.

        Among equals, trials trained to the end come first, then those with fewer epochs.
        """
        first = self.configs[0]
        value = record.best(first.metric, first.mode)
        worth = math.inf if value is None else -value if first.mode == "max" else value
        return not self.is_feasible(record), worth, record.status is not TrialStatus.FINISHED, record.epochs

    def pareto_front(self, records: Iterable[TrialRecord]) -> list[TrialRecord]:
        """Return the finished, feasible trials that no other dominates, best first in the first objective.

        With one objective these are the best trial and its equals.
        """
        rows = []
        for record in records:
            values = self.values(record)
            complete = len(values) == len(self.configs)
            if record.status is TrialStatus.FINISHED and complete and self.is_feasible(record):
                signed = [
                    -values[objective.metric] if objective.mode == "max" else values[objective.metric]
                    for objective in self.configs
                ]
                rows.append((tuple(signed), record))
        front = [row for row in rows if not any(_dominates(other, row[0]) for other, _ in rows)]
        return [record for _, record in sorted(front, key=lambda row: (row[0], row[1].number))]

    def _best_report(self, record: TrialRecord) -> Mapping[str, float]:
        first = self.configs[0]
        value = record.best(first.metric, first.mode)
        if value is None:
            return {}
        return next(report for report in record.reports if report.get(first.metric) == value)


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether the first is at least as good everywhere and better somewhere; smaller is better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)
