"""The tables of trials in a report: the leaderboard and the Pareto front, a curve beside each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.ledger import TrialRecord, TrialStatus
from orchestrator.objectives import Aims
from orchestrator.results import TrialResult
from orchestrator.stored_sweep import StoredSweep

MOST_ROWS = 25
MOST_PARAMS = 6
_HOUR_S = 3_600.0
NOTHING = "\N{EN DASH}"
_SPARK_POINTS = 40
ENDS = {
    TrialStatus.FINISHED: "trained to the end",
    TrialStatus.PRUNED: "stopped early",
    TrialStatus.DIVERGED: "diverged",
    TrialStatus.FAILED: "failed",
    TrialStatus.INTERRUPTED: "interrupted",
    TrialStatus.RUNNING: "running",
}


@dataclass(frozen=True)
class Row:
    """A trial in a table.

    Args:
        rank: From 1.
        trial: Its number.
        model: Name of the network.
        values: Every objective, as text.
        test: Test accuracy, as text.
        epochs: Trained.
        end: How it ended, in words.
        cost: Device time, as text.
        params: Searched names and values, as text.
        spark: Its learning curve, as points of an SVG polyline; empty below two epochs.
        is_best: Whether it is the sweep's best.
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


def leaderboard(sweep: StoredSweep, importance: Mapping[str, float]) -> list[Row]:
    """The best trials with a value.

    Args:
        sweep: The sweep.
        importance: Of the searched names; those that decide most come first.
    """
    records = {record.number: record for record in sweep.result.records}
    best = sweep.result.best
    assert sweep.result.aims is not None
    return [
        _row(
            rank,
            trial,
            records[trial.number],
            sweep.result.aims,
            importance,
            is_best=best is not None and trial.number == best.number,
        )
        for rank, trial in enumerate(sweep.result.top(MOST_ROWS), start=1)
    ]


def front(sweep: StoredSweep, importance: Mapping[str, float]) -> list[Row]:
    """The trials that no other beats, where there are several objectives."""
    aims = sweep.result.aims
    if aims is None or len(aims.objectives) == 1:
        return []
    records = {record.number: record for record in sweep.result.records}
    rows = enumerate(sweep.result.pareto_front[:MOST_ROWS], start=1)
    return [_row(rank, trial, records[trial.number], aims, importance) for rank, trial in rows]


def number(value: float | None) -> str:
    """Four digits that count."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def device_time(cpu_s: float, gpu_s: float) -> str:
    """Hours of the devices that count: GPUs, where there are any."""
    seconds, device = (gpu_s, "GPU") if gpu_s else (cpu_s, "CPU")
    if seconds < 2 * _HOUR_S:
        return f"{seconds / 60:.3g} {device}-min"
    return f"{seconds / _HOUR_S:,.3g} {device}-h"


def _row(
    rank: int,
    trial: TrialResult,
    record: TrialRecord,
    aims: Aims,
    importance: Mapping[str, float],
    *,
    is_best: bool = False,
) -> Row:
    names = sorted(trial.params, key=lambda name: -importance.get(name, 0.0))
    params = {name: trial.params[name] for name in names if name != "model"}
    return Row(
        rank=rank,
        trial=trial.number,
        model=record.config["model"]["name"],
        values=[number(trial.values.get(metric)) for metric in aims.metrics],
        test=NOTHING if trial.test_top1 is None else f"{trial.test_top1:.2%}",
        epochs=trial.epochs,
        end=ENDS[trial.status] + ("" if trial.feasible else ", beyond a constraint"),
        cost=device_time(trial.cost.cpu_s, trial.cost.gpu_s),
        params=[(name, number(value) if isinstance(value, float) else str(value)) for name, value in params.items()],
        spark=_spark(record, aims.metrics[0]),
        is_best=is_best,
    )


def _spark(record: TrialRecord, metric: str) -> str:
    """The curve within a box of 100 by 24."""
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
