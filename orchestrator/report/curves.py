"""Learning curves of the trials of a sweep, with marks on stopped and failed trials."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from orchestrator.records.ledger import TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.report.figures import ACCENT, BAD, FAINT, PALE, QUIET, Chart, as_chart, figure, log_ticks, thinned

MOST_CURVES = 200
_MOST_POINTS = 150
_ALWAYS_DRAWN = 20
_LOSSES = ("val/loss", "train/loss")
_WIDE = 20.0
_FEW_EPOCHS = 12

# Name, status of the trials, colour, width, mark at the end of a curve.
_GROUPS: tuple[tuple[str, tuple[TrialStatus, ...], str, float, str | None], ...] = (
    ("stopped early or paused", (TrialStatus.PRUNED, TrialStatus.PAUSED), QUIET, 1.2, "circle-open"),
    ("interrupted or running", (TrialStatus.INTERRUPTED, TrialStatus.RUNNING), FAINT, 1.2, "triangle-right-open"),
    ("failed or diverged", (TrialStatus.FAILED, TrialStatus.DIVERGED), BAD, 1.5, "x"),
    ("finished", (TrialStatus.FINISHED,), PALE, 1.6, None),
)


def curve_charts(records: Sequence[TrialRecord], objectives: Objectives, best: int | None) -> list[Chart]:
    """Draw the curves of the first objective, and of a loss beside it.

    Args:
        records: Every trial of the sweep.
        objectives: Objectives and constraints of the sweep.
        best: Number of the best trial; None without one.
    """
    objective = objectives.configs[0].metric
    known = {metric for record in records for report in record.reports for metric in report}
    metrics = [objective, *[loss for loss in _LOSSES if loss in known and loss != objective][:1]]
    drawn = _drawn(records, objectives, best)
    return [chart for metric in metrics if (chart := _chart(drawn, metric, best)) is not None]


def left_out(records: Sequence[TrialRecord]) -> int:
    """Count the trials whose curves are left out to keep the page small."""
    return max(0, sum(bool(record.reports) for record in records) - MOST_CURVES)


def _drawn(records: Sequence[TrialRecord], objectives: Objectives, best: int | None) -> list[TrialRecord]:
    """Choose the trials to draw: the best, the failed, and evenly spread others up to the limit."""
    reporting = sorted(
        (record for record in records if record.reports),
        key=lambda record: (record.number != best, objectives.rank(record)),
    )
    if len(reporting) <= MOST_CURVES:
        return reporting
    failed = [
        record for record in reporting[_ALWAYS_DRAWN:] if record.status in (TrialStatus.FAILED, TrialStatus.DIVERGED)
    ]
    chosen = [*reporting[:_ALWAYS_DRAWN], *thinned(failed, MOST_CURVES // 4)]
    taken = {record.number for record in chosen}
    others = [record for record in reporting if record.number not in taken]
    return [*chosen, *thinned(others, MOST_CURVES - len(chosen))]


def _chart(records: Sequence[TrialRecord], metric: str, best: int | None) -> Chart | None:
    traces: list[go.Scatter] = []
    for name, statuses, colour, width, mark in _GROUPS:
        group = [record for record in records if record.status in statuses and record.number != best]
        traces += _group_traces(group, metric, name, colour=colour, width=width, mark=mark)
    chosen = [record for record in records if record.number == best]
    traces += _group_traces(chosen, metric, "best", colour=ACCENT, width=3.0)
    if not traces:
        return None
    drawn = figure(*traces, hovermode="closest")
    drawn.update_xaxes(title_text="epoch", rangemode="tozero", showgrid=False)
    if max(record.epochs for record in records) <= _FEW_EPOCHS:
        drawn.update_xaxes(dtick=1)
    drawn.update_yaxes(title_text=metric)
    values = [value for record in records for _, value in _finite(record, metric)]
    if metric in _LOSSES and min(values) > 0 and max(values) > _WIDE * min(values):
        drawn.update_yaxes(log_ticks(values))
    return as_chart(drawn, f"{metric} by epoch, a line per trial", height_px=400, legend=True)


def _group_traces(
    records: Sequence[TrialRecord], metric: str, name: str, *, colour: str, width: float, mark: str | None = None
) -> list[go.Scatter]:
    """Return all curves of a group as one trace with gaps between them, and their ends as another."""
    epochs: list[Any] = []
    values: list[Any] = []
    numbers: list[Any] = []
    ends: list[tuple[int, float, int]] = []
    for record in records:
        points = [(int(report["epoch"]), value) for report, value in _finite(record, metric)]
        if not points:
            continue
        ends.append((*points[-1], record.number))
        for epoch, value in thinned(points, _MOST_POINTS):
            epochs.append(epoch)
            values.append(float(f"{value:.5g}"))
            numbers.append(record.number)
        epochs.append(None)
        values.append(None)
        numbers.append(None)
    if not epochs:
        return []
    hover = "trial %{customdata} · epoch %{x}<br>" + metric + " %{y:.4g}<extra>" + name + "</extra>"
    single = len(epochs) == 2 * len(ends)  # points, and no line to see
    line = go.Scatter(
        x=epochs,
        y=values,
        customdata=numbers,
        name=name if name != "best" else f"best: trial {ends[0][2]}",
        mode="lines+markers" if single or name == "best" else "lines",
        line={"color": colour, "width": width},
        marker={"size": 5, "color": colour},
        opacity=0.55 if len(ends) > 30 and name != "best" else 0.9,
        hovertemplate=hover,
    )
    if mark is None:
        return [line]
    ending = FAINT if colour == QUIET else colour
    last = go.Scatter(
        x=[epoch for epoch, _, _ in ends],
        y=[value for _, value, _ in ends],
        customdata=[number for _, _, number in ends],
        mode="markers",
        marker={"symbol": mark, "size": 7, "color": ending, "line": {"width": 1.5, "color": ending}},
        showlegend=False,
        hovertemplate=hover,
    )
    return [line, last]


def _finite(record: TrialRecord, metric: str) -> Iterable[tuple[dict[str, float], float]]:
    """Yield the reports in which the metric is a finite number, each with its value."""
    return ((report, report[metric]) for report in record.reports if math.isfinite(report.get(metric, math.nan)))
