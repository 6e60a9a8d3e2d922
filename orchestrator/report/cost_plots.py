"""Plots of time and devices: lanes over time, best value over time, device time by outcome of the trials."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import plotly.graph_objects as go

from orchestrator.records.events import SESSION_STARTS, Event, TrialReported
from orchestrator.records.ledger import TrialRecord, TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.report.figures import ACCENT, BAD, FAINT, GRID, PALE, Chart, as_chart, figure
from orchestrator.report.lane_times import LaneInterval, LaneTimes

_KINDS: tuple[tuple[str, tuple[TrialStatus, ...], str], ...] = (
    ("finished", (TrialStatus.FINISHED,), ACCENT),
    ("stopped early or paused", (TrialStatus.PRUNED, TrialStatus.PAUSED), PALE),
    ("failed or diverged", (TrialStatus.FAILED, TrialStatus.DIVERGED), BAD),
    ("interrupted or running", (TrialStatus.INTERRUPTED, TrialStatus.RUNNING), FAINT),
)
_UNITS = ((7_200.0, 3_600.0, "hours"), (180.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


def lane_chart(times: LaneTimes, records: Sequence[TrialRecord]) -> list[Chart]:
    """Draw a row per lane and a bar per trial; gaps are idle time."""
    if not times.intervals:
        return []
    scale, unit = _unit(times.total_s)
    status = {record.number: record.status for record in records}
    drawn = figure(barmode="overlay", bargap=0.3)
    for name, statuses, colour in _KINDS:
        group = [interval for interval in times.intervals if status.get(interval.trial) in statuses]
        if group:
            drawn.add_trace(_bars(group, name, colour, scale))
    for start in times.session_starts:
        drawn.add_vline(x=start / scale, line={"color": FAINT, "width": 1, "dash": "dot"})
    drawn.update_xaxes(title_text=f"{unit} since the sweep began", range=[0, times.total_s / scale])
    drawn.update_yaxes(autorange="reversed", showgrid=False, tickfont={"size": 11})
    height = 120 + min(700, 34 * times.lanes)
    return [as_chart(drawn, "trials on the lanes over time", height_px=height, legend=True)]


def _bars(group: Sequence[LaneInterval], name: str, colour: str, scale: float) -> go.Bar:
    return go.Bar(
        orientation="h",
        base=[round(interval.start_s / scale, 4) for interval in group],
        x=[round((interval.end_s - interval.start_s) / scale, 4) for interval in group],
        y=[f"lane {interval.lane}" for interval in group],
        customdata=[[interval.trial, f"{interval.end_s - interval.start_s:.0f} s"] for interval in group],
        text=[str(interval.trial) for interval in group],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        constraintext="inside",
        name=name,
        marker={"color": colour, "line": {"color": "var(--card)", "width": 1}},
        hovertemplate="trial %{customdata[0]} · %{customdata[1]}<extra>" + name + "</extra>",
    )


def progress_chart(events: Iterable[Event], objectives: Objectives) -> list[Chart]:
    """Draw the best value over time."""
    objective = objectives.configs[0]
    clock, last, best = 0.0, None, -math.inf
    sign = 1.0 if objective.mode == "max" else -1.0
    points: list[tuple[float, float, int]] = []
    for event in events:
        if not isinstance(event, SESSION_STARTS) and last is not None:
            clock += max(0.0, event.time - last)
        last = event.time
        if not isinstance(event, TrialReported):
            continue
        metrics = event.metrics
        value = sign * float(metrics.get(objective.metric, math.nan))
        kept = all(
            bound.violation(metrics.get(bound.metric, math.inf)) <= 0 for bound in objectives.constraints.values()
        )
        if kept and math.isfinite(value) and value > best:
            best = value
            points.append((clock, sign * value, event.trial))
    if not points:
        return []
    scale, unit = _unit(clock)
    line = go.Scatter(
        x=[*(at / scale for at, _, _ in points), clock / scale],
        y=[*(value for _, value, _ in points), points[-1][1]],
        customdata=[*(trial for _, _, trial in points), points[-1][2]],
        mode="lines+markers",
        line={"color": ACCENT, "width": 2, "shape": "hv"},
        marker={"size": [*([6] * len(points)), 0]},
        hovertemplate=objective.metric + " %{y:.4g}<br>trial %{customdata}<extra></extra>",
        showlegend=False,
    )
    drawn = figure(line)
    drawn.update_xaxes(title_text=f"{unit} by the clock", rangemode="tozero", showgrid=False)
    drawn.update_yaxes(title_text=f"best {objective.metric}")
    return [as_chart(drawn, f"best {objective.metric} over time", height_px=300)]


def cost_chart(records: Sequence[TrialRecord]) -> list[Chart]:
    """Draw the device time by outcome of the trials."""
    on_gpu = any(record.cost.gpu_s for record in records)
    spent = {
        name: sum(record.cost.gpu_s if on_gpu else record.cost.cpu_s for record in records if record.status in statuses)
        for name, statuses, _ in _KINDS
    }
    if not sum(spent.values()):
        return []
    scale, unit = _unit(sum(spent.values()))
    drawn = figure(barmode="stack", bargap=0.5)
    for name, _, colour in _KINDS:
        if spent[name]:
            label = f"{spent[name] / sum(spent.values()):.0%}"
            drawn.add_bar(
                orientation="h",
                x=[spent[name] / scale],
                y=[""],
                name=name,
                text=[label],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                marker={"color": colour, "line": {"color": "var(--card)", "width": 1}},
                hovertemplate=f"{name}: {spent[name] / scale:.3g} {unit} ({label})<extra></extra>",
            )
    drawn.update_layout(legend_traceorder="normal")
    device = "GPU" if on_gpu else "CPU"
    drawn.update_xaxes(title_text=f"{device}-{unit} by the end of the trial", gridcolor=GRID)
    drawn.update_yaxes(showticklabels=False, showgrid=False)
    return [as_chart(drawn, "device time by how the trials ended", height_px=170, legend=True)]


def _unit(total_s: float) -> tuple[float, str]:
    return next((scale, unit) for least, scale, unit in _UNITS if total_s >= least)
