"""Charts of a verdict: the values of each arm, and the probability of superiority of each pair."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from orchestrator.report.figures import ACCENT, BAD, FAINT, PALE, QUIET, Chart, as_chart, figure, thinned
from orchestrator.verdicts.verdict import Verdict

_MOST_POINTS = 200
_ROW_PX = 44


def value_chart(found: Verdict) -> Chart:
    """Draw every compared value, an arm per row, with the median of the arm."""
    sign = 1.0 if found.mode == "max" else -1.0
    drawn = figure()
    for arm in found.arms:
        values = sorted(sign * value for value in arm.sample(found.unit) if math.isfinite(value))
        colour = ACCENT if arm.name == found.winner else FAINT
        shown = thinned(values, _MOST_POINTS)
        marker = {"color": colour, "size": 9, "opacity": 0.55}
        drawn.add_trace(
            go.Scatter(
                x=shown,
                y=[arm.name] * len(shown),
                mode="markers",
                marker=marker,
                hovertemplate="%{x:.4f}<extra>%{y}</extra>",
            )
        )
        if values:
            median = values[len(values) // 2] if len(values) % 2 else sum(values[len(values) // 2 - 1 :][:2]) / 2
            line = {"symbol": "line-ns-open", "size": 26, "color": colour, "line": {"width": 3}}
            drawn.add_trace(
                go.Scatter(
                    x=[median],
                    y=[arm.name],
                    mode="markers",
                    marker=line,
                    hovertemplate="median %{x:.4f}<extra>%{y}</extra>",
                )
            )
    drawn.update_xaxes(title_text=found.metric)
    drawn.update_yaxes(autorange="reversed", showgrid=False, type="category")
    label = f"values of {found.metric} of each arm"
    return as_chart(drawn, label, height_px=110 + _ROW_PX * len(found.arms))


def superiority_chart(found: Verdict) -> Chart:
    """Draw the probability of superiority of each pair with its interval; the dotted line is a draw."""
    pairs = [f"{each.one} over {each.other}" for each in found.comparisons]
    drawn = figure()
    for pair, each in zip(pairs, found.comparisons, strict=True):
        colour = QUIET if each.better is None else ACCENT if each.better == each.one else BAD
        drawn.add_trace(
            go.Scatter(
                x=[each.superiority],
                y=[pair],
                mode="markers",
                marker={"color": colour, "size": 11},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [each.high - each.superiority],
                    "arrayminus": [each.superiority - each.low],
                    "color": colour,
                    "thickness": 2,
                    "width": 6,
                },
                hovertemplate=f"{each.superiority:.2f} ({each.low:.2f} to {each.high:.2f})<extra>%{{y}}</extra>",
            )
        )
    drawn.add_vline(x=0.5, line={"color": PALE, "width": 2, "dash": "dot"})
    drawn.update_xaxes(title_text="probability of superiority", range=[-0.02, 1.02])
    drawn.update_yaxes(autorange="reversed", showgrid=False, type="category")
    label = "probability that one arm is better than another"
    return as_chart(drawn, label, height_px=110 + _ROW_PX * len(pairs))
