"""What a trial is worth: the objectives at its best epoch, whether it keeps the constraints, and the Pareto front.

Without Optuna and Ray: the study is told what is computed here, and results and MLflow show the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.config.sections.objective import Constraint, ObjectiveConfig, parse_constraint
from orchestrator.records.ledger import TrialRecord, TrialStatus


@dataclass(frozen=True)
class Objectives:
    """The objectives and constraints of a sweep.

    Args:
        configs: Objectives in order; the first one decides which epoch of a trial is its best.
        constraints: By their text.
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
        """Of the objectives, in order."""
        return [objective.metric for objective in self.configs]

    def values(self, record: TrialRecord) -> dict[str, float]:
        """The objectives at the best epoch, by metric; those that are no numbers are absent."""
        report = self._best_report(record)
        known = {metric: report.get(metric, math.nan) for metric in self.metrics}
        return {metric: value for metric, value in known.items() if math.isfinite(value)}

    def violations(self, record: TrialRecord) -> dict[str, float]:
        """By constraint, how far beyond its bound the best epoch lies; empty before the first epoch."""
        report = self._best_report(record)
        if not report:
            return {}
        known = {text: report.get(constraint.metric, math.nan) for text, constraint in self.constraints.items()}
        return {
            text: self.constraints[text].violation(value) if math.isfinite(value) else math.inf
            for text, value in known.items()
        }

    def is_feasible(self, record: TrialRecord) -> bool:
        """Whether every constraint is kept."""
        return all(violation <= 0 for violation in self.violations(record).values())

    def rank(self, record: TrialRecord) -> tuple[bool, float, bool, int]:
        """Orders trials, best first: those beyond a constraint come last.

        Trials trained to the end win ties, then those with the fewer epochs.
        """
        first = self.configs[0]
        value = record.best(first.metric, first.mode)
        worth = math.inf if value is None else -value if first.mode == "max" else value
        return not self.is_feasible(record), worth, record.status is not TrialStatus.FINISHED, record.epochs

    def pareto_front(self, records: Iterable[TrialRecord]) -> list[TrialRecord]:
        """The trials trained to the end that keep the constraints and that no other beats in every objective.

        Best first in the first objective. With one objective these are the best trial and its equals.
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
    """Whether the first is nowhere worse and somewhere better; smaller is better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)
