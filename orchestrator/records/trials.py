"""A trial as the journal tells it: what it was given, what it reported, how it ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.records.costs import NO_COST, Cost
from orchestrator.records.status import TrialStatus


@dataclass
class TrialRecord:
    """One trial, as far as it got.

    Args:
        number: Optuna's number.
        tune_id: Tune's id.
        params: Searched values.
        config: The whole `TrialConfig` as plain data.
        status: How it stands.
        reports: Metrics per epoch, in order; each holds `epoch`.
        reason: Of a failure, or where it diverged.
        started_s: Unix time.
        ended_s: Unix time; None while it runs.
        cost: Devices times seconds, as of its end.
        attempts: Times it was handed to Tune; above 1 where its sweep was resumed.
        nodes: Host and address of every rank, in order, as of its newest report.
    """

    number: int
    tune_id: str
    params: Mapping[str, Any]
    config: Mapping[str, Any]
    started_s: float
    status: TrialStatus = TrialStatus.RUNNING
    reports: list[dict[str, float]] = field(default_factory=list)
    reason: str = ""
    ended_s: float | None = None
    cost: Cost = NO_COST
    attempts: int = 1
    nodes: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether it will never train again; one that was interrupted waits for the sweep to be resumed."""
        return self.status not in (TrialStatus.RUNNING, TrialStatus.INTERRUPTED)

    @property
    def epochs(self) -> int:
        """Epochs trained."""
        return int(self.reports[-1]["epoch"]) if self.reports else 0

    def best(self, metric: str, mode: str) -> float | None:
        """The best finite value any epoch reported; None before the first."""
        values = [report[metric] for report in self.reports if math.isfinite(report.get(metric, math.nan))]
        choose = max if mode == "max" else min
        return choose(values) if values else None

    @property
    def test_top1(self) -> float | None:
        """Accuracy on the test images; None unless the trial was trained to the end."""
        return self.reports[-1].get("test/top1") if self.reports else None


@dataclass(frozen=True)
class RejectedTrial:
    """A configuration that was proposed and not worth a trial.

    Args:
        number: Optuna's number.
        params: Searched values.
        rule: The setting or limit it breaks.
        reason: What was given and what holds.
    """

    number: int
    params: Mapping[str, Any]
    rule: str
    reason: str
