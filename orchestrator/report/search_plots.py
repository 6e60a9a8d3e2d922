"""Plots of the search: Optuna's plots of the study, in the colours of the report."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna import visualization

from orchestrator.report.figures import ACCENT, FAINT, GRID, INK, QUIET, SCALE, Chart, as_chart, figure, log_ticks
from orchestrator.report.study_view import StudyView

MOST_AXES = 8
MOST_BARS = 16
LEAST_SHARE = 0.005
MOST_SLICES = 9
MOST_CONTOURS = 3
MOST_LINES = 150
MOST_PAIRS = 3
_MOST_IN_CONTOURS = 80
_FEWEST_IN_CONTOURS = 4
_FEWEST_COMPLETE = 2
_FEW_CATEGORIES = 4
_LINE = 12


def parallel_chart(view: StudyView, metrics: Sequence[str]) -> list[Chart]:
    """Draw a line per trial through its values, for the most important names."""
    fewer = view.thinned(MOST_LINES)
    left = set(fewer.varied)
    names = [name for name in view.varied if name in left][:MOST_AXES]
    if len(view.complete) < _FEWEST_COMPLETE or not names:
        return []
    drawn = visualization.plot_parallel_coordinate(fewer.study, names, target_name=metrics[0])
    drawn.data = _recoloured(drawn, single_objective=len(metrics) == 1)
    drawn.update_xaxes(ticktext=[_in_lines(str(label)) for label in drawn.layout.xaxis.ticktext])
    drawn.update_xaxes(tickangle=0, ticklabeloverflow="allow")
    drawn.update_shapes(line={"color": GRID, "width": 1})
    drawn.update_annotations(font={"size": 10, "color": FAINT}, bgcolor="var(--card)", borderpad=1, opacity=0.85)
    columns = len(names) + len(metrics)
    return [as_chart(drawn, "parallel coordinates of the trials", height_px=380, min_width_px=110 * columns)]


def importance_chart(view: StudyView) -> list[Chart]:
    """Draw the importance of each searched name."""
    rising = [(name, value) for name, value in view.importance.items() if value >= LEAST_SHARE][MOST_BARS - 1 :: -1]
    if not rising:
        return []
    bar = go.Bar(
        orientation="h",
        x=[value for _, value in rising],
        y=[name for name, _ in rising],
        text=[f"{value:.0%}" for _, value in rising],
        textposition="outside",
        cliponaxis=False,
        marker={"color": ACCENT},
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )
    drawn = figure(bar, bargap=0.35)
    drawn.update_xaxes(title_text="share of importance", tickformat=".0%")
    drawn.update_yaxes(showgrid=False)
    return [as_chart(drawn, "importance of the searched names", height_px=90 + 26 * len(rising))]


def slice_charts(view: StudyView, metrics: Sequence[str]) -> list[Chart]:
    """Draw the objective against one name at a time."""
    charts = []
    for name in view.varied[:MOST_SLICES]:
        target = _target(metrics)
        drawn = visualization.plot_slice(view.study, params=[name], **target)
        for trace in drawn.data:
            trace.marker.update(size=8, opacity=0.85, showscale=False, line={"width": 1, "color": "var(--card)"})
            trace.marker.color, trace.marker.colorscale = ACCENT, None
        drawn.update_xaxes(title_text=name, nticks=5)
        drawn.update_yaxes(title_text=metrics[0])
        charts.append(as_chart(_readable(drawn), f"{metrics[0]} by {name}", height_px=280))
    return charts


def contour_charts(view: StudyView, metrics: Sequence[str]) -> list[Chart]:
    """Draw the objective against two names at a time, for the most important names."""
    charts: list[Chart] = []
    smaller = view.study.directions[0] is optuna.study.StudyDirection.MINIMIZE
    for one, other in itertools.combinations(_ordered_names(view), 2):
        both = view.thinned(_MOST_IN_CONTOURS, [one, other])
        if len(both.complete) < _FEWEST_IN_CONTOURS or not {one, other} <= set(both.varied):
            continue
        drawn = visualization.plot_contour(both.study, params=[one, other], **_target(metrics))
        for trace in drawn.data:
            if isinstance(trace, go.Contour):
                trace.update(colorscale=SCALE, reversescale=smaller, showscale=True, line={"width": 0}, opacity=0.85)
                trace.colorbar.update(thickness=8, outlinewidth=0, title={"text": ""}, tickfont={"color": FAINT})
            else:
                trace.marker.update(size=6, color=INK, line={"width": 1, "color": "var(--card)"})
        drawn.update_xaxes(nticks=5, showgrid=False)
        drawn.update_yaxes(nticks=5, showgrid=False)
        charts.append(as_chart(_readable(drawn), f"{metrics[0]} by {one} and {other}", height_px=320))
        if len(charts) == MOST_CONTOURS:
            break
    return charts


def pareto_charts(view: StudyView, metrics: Sequence[str]) -> list[Chart]:
    """Draw the objectives against each other, two at a time, with the front marked."""
    if len(metrics) == 1 or not view.complete:
        return []
    pairs = list(itertools.combinations(range(len(metrics)), 2))[:MOST_PAIRS]
    return [_pareto_chart(view, metrics, pair) for pair in pairs]


def _pareto_chart(view: StudyView, metrics: Sequence[str], pair: tuple[int, int]) -> Chart:
    named = [metrics[index] for index in pair]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`targets` is an experimental", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Argument ``targets``", optuna.exceptions.ExperimentalWarning)
        drawn = visualization.plot_pareto_front(
            view.study, targets=lambda trial: [trial.values[index] for index in pair], target_names=named
        )
    names = ["not on the front", "on the front"]
    names = names if len(drawn.data) == len(names) else ["beyond a constraint", *names]
    colours = {"beyond a constraint": QUIET, "not on the front": FAINT, "on the front": ACCENT}
    for trace, name in zip(drawn.data, names, strict=True):
        size = 11 if name == "on the front" else 8
        trace.marker = {"color": colours[name], "size": size, "line": {"width": 1, "color": "var(--card)"}}
        trace.update(name=name, showlegend=bool(trace.x))
    if len(metrics) == 2:
        _join_front(drawn)
    return as_chart(drawn, f"{' against '.join(reversed(named))}", height_px=420, legend=True)


def _join_front(drawn: go.Figure) -> None:
    """Draw a line through the trials of the front."""
    front = drawn.data[-1]
    if front.x is not None and len(front.x) > 1:
        points = sorted(zip(front.x, front.y, strict=True))
        line = {"color": ACCENT, "width": 1.5, "dash": "dot"}
        drawn.add_scatter(
            x=[x for x, _ in points],
            y=[y for _, y in points],
            mode="lines",
            line=line,
            showlegend=False,
            hoverinfo="skip",
        )


def _ordered_names(view: StudyView) -> list[str]:
    """Sort the most important names, ordered ones first: a surface over categories shows little."""
    names = view.varied[:MOST_AXES]

    def is_category(name: str) -> bool:
        return any(
            isinstance(trial.distributions.get(name), optuna.distributions.CategoricalDistribution)
            for trial in view.complete
        )

    return sorted(names, key=is_category)


def _target(metrics: Sequence[str]) -> dict[str, Any]:
    """Return the target of plots of one value: the first of several objectives."""
    if len(metrics) == 1:
        return {"target_name": metrics[0]}
    return {"target": lambda trial: trial.values[0], "target_name": metrics[0]}


def _recoloured(drawn: go.Figure, *, single_objective: bool) -> list[go.Scatter]:
    """Return Optuna's lines without the colour bar, with the best in the accent and on top."""
    lines, bar = [trace for trace in drawn.data if trace.customdata is not None], drawn.data[-1]
    if not single_objective:  # drawn by rank, the front last
        front = lines[-1].line.color
        for line in lines:
            on_front = line.line.color == front
            line.line.update(color=ACCENT if on_front else FAINT, width=2 if on_front else 1)
            line.opacity = 0.9 if on_front else 0.4
        return lines
    low, high = bar.marker.color
    # A line has its value rounded, the colour bar its ends exactly: nearly equal values may lie outside.
    shares = [min(1.0, max(0.0, (float(line.customdata[0][1]) - low) / (high - low or 1.0))) for line in lines]
    shares = [1.0 - share for share in shares] if bar.marker.reversescale else shares
    for line, share in zip(lines, shares, strict=True):
        line.line.update(color=f"var(--step-{min(9, max(0, int(share * 10)))})", width=1.2 + share)
        line.opacity = 0.8
    return [line for _, line in sorted(zip(shares, lines, strict=True), key=lambda pair: pair[0])]


def _readable(drawn: go.Figure) -> go.Figure:
    """Adapt the axes of a small chart: categories without quotes, few round ticks on logarithmic axes."""
    points = [trace for trace in drawn.data if isinstance(trace, go.Scatter)]
    for axis, side in ((drawn.layout.xaxis, "x"), (drawn.layout.yaxis, "y")):
        values = [value for trace in points for value in (getattr(trace, side) or ())]
        if axis.type == "category":
            plain = {value: _in_lines(str(value).strip("'")) for value in [*values, *(axis.categoryarray or ())]}
            axis.update(tickfont={"size": 10}, tickangle=0 if len(plain) <= _FEW_CATEGORIES else None)
            for trace in points:
                trace.update({side: [plain[value] for value in getattr(trace, side) or ()]})
            if axis.categoryarray:
                axis.categoryarray = [plain[value] for value in axis.categoryarray]
        elif axis.type == "log":
            axis.update(log_ticks([value for value in values if value is not None]))
        elif values and all(isinstance(value, int) for value in values) and max(values) - min(values) < 5:
            axis.update(dtick=1)
    return drawn


def _in_lines(label: str) -> str:
    """Break a long name into lines after underscores and slashes."""
    lines = [""]
    for part in re.split(r"(?<=[_/])", label):
        if lines[-1] and len(lines[-1]) + len(part) > _LINE:
            lines.append("")
        lines[-1] += part
    return "<br>".join(lines)
