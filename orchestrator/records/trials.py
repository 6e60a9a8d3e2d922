"""Trials as recorded in the journal: parameters, reports and outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.records.costs import NO_COST, Cost
from orchestrator.records.status import TrialStatus

_TEST = "test/"


@dataclass
class TrialRecord:
    """Record of one trial.

    Args:
        number: Optuna's number of the trial.
        tune_id: Tune's id of the trial.
        params: Searched values, by name.
        config: `TrialConfig` as plain data.
        status: Current status.
        reports: Metrics per epoch, in order; each holds `epoch`.
        reason: Reason of a failure, or place of a divergence; else empty.
        started_s: Unix time of the start.
        ended_s: Unix time of the end or of the pause; None while the trial runs.
        cost: Devices times seconds, until its end or its pause.
        attempts: Number of times it was passed to Tune; above 1 after a pause, or after the sweep was resumed.
        nodes: Name and address of the node of every rank, in order, in the newest report.
        failures: Number of failures until the newest report, after each of which it was retried.
        repeats: Number of the trial whose configuration it trains with another seed; None for the first seed.
        replicate: Index of its seed among those of its configuration, from 0.
        steered: `stop` or `pause` where the user has requested it for this trial; else empty.
        resume_epoch: Epoch of the checkpoint from which a paused trial would resume; 0 where none is left.
        changes: Number of times it has taken over the weights of another trial.
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
    failures: int = 0
    repeats: int | None = None
    replicate: int = 0
    steered: str = ""
    resume_epoch: int = 0
    changes: int = 0

    @property
    def is_repeat(self) -> bool:
        """True if the trial trains a configuration with another than the first seed."""
        return self.repeats is not None

    @property
    def configuration(self) -> int:
        """Number of the trial that trains the same configuration with the first seed."""
        return self.number if self.repeats is None else self.repeats

    @property
    def is_over(self) -> bool:
        """True if the trial has ended for good; False for an interrupted or paused trial, which may be resumed."""
        return self.status not in (TrialStatus.RUNNING, TrialStatus.INTERRUPTED, TrialStatus.PAUSED)

    @property
    def epochs(self) -> int:
        """Number of epochs trained."""
        return int(self.reports[-1]["epoch"]) if self.reports else 0

    def best(self, metric: str, mode: str) -> float | None:
        """Return the best finite value that an epoch reported; None before the first."""
        values = [report[metric] for report in self.reports if math.isfinite(report.get(metric, math.nan))]
        choose = max if mode == "max" else min
        return choose(values) if values else None

    @property
    def test(self) -> dict[str, float]:
        """Finite metrics on the test images, by name without the split; empty unless it was trained to the end."""
        last = self.reports[-1] if self.reports else {}
        found = {name.removeprefix(_TEST): value for name, value in last.items() if name.startswith(_TEST)}
        return {name: value for name, value in found.items() if math.isfinite(value)}


@dataclass(frozen=True)
class RejectedTrial:
    """Proposed configuration that was not trained because it breaks a rule or limit.

    Args:
        number: Optuna's number of the trial.
        params: Searched values, by name.
        rule: Setting or limit that it breaks.
        reason: Given value, and the rule.
    """

    number: int
    params: Mapping[str, Any]
    rule: str
    reason: str
