"""What all charts of a report have in common: colours that follow the reader's light or dark page, and a calm frame.

Colours are names of the page's style sheet, such as `var(--accent)`; the page's script puts their values in whenever it
draws. Plotly's own classes let such names through.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

__all__ = [
    "ACCENT",
    "BAD",
    "FAINT",
    "INK",
    "PALE",
    "QUIET",
    "SCALE",
    "Chart",
    "as_chart",
    "figure",
    "log_ticks",
    "plotly_script",
    "thinned",
]

INK = "var(--ink)"
FAINT = "var(--faint)"
GRID = "var(--grid)"
ACCENT = "var(--accent)"
PALE = "var(--pale)"
BAD = "var(--bad)"
QUIET = "var(--quiet)"
SCALE = [[0.0, "var(--scale-low)"], [1.0, "var(--accent)"]]

_FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Chart:
    """A chart as the page holds it.

    Args:
        label: What it shows, for who cannot see it.
        content: Data and layout, as JSON that is safe within a script element.
        height_px: Of the chart.
        min_width_px: Where the page is narrower, the chart is scrolled within itself.
    """

    label: str
    content: str
    height_px: int
    min_width_px: int = 0


def figure(*traces: Any, **layout: Any) -> go.Figure:
    """A figure without plotly's template."""
    return go.Figure(list(traces), {"template": None, **layout})


def as_chart(drawn: go.Figure, label: str, *, height_px: int, min_width_px: int = 0, legend: bool = False) -> Chart:
    """Gives a figure, ours or Optuna's, the look of the report.

    Args:
        drawn: The figure.
        label: What it shows, for who cannot see it.
        height_px: Of the chart.
        min_width_px: Where the page is narrower, the chart is scrolled within itself.
        legend: Whether there is one, above the chart.
    """
    axis: dict[str, Any] = {
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "automargin": True,
        "title_standoff": 10,
        "title_font": {"size": 12, "color": FAINT},
    }
    drawn.update_layout(
        template=None,
        title=None,
        width=None,
        height=height_px,
        font={"family": _FONT, "size": 12, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 48, "r": 12, "t": 34 if legend else 10, "b": 40},
        showlegend=legend,
        hoverlabel={"bgcolor": "var(--card)", "bordercolor": GRID, "font": {"family": _FONT, "color": INK}},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": FAINT, "activecolor": ACCENT},
    )
    drawn.update_xaxes(axis)
    drawn.update_yaxes(axis)
    content = json.loads(drawn.to_json())
    content.get("layout", {}).pop("template", None)
    text = json.dumps({"data": content["data"], "layout": content["layout"]}, separators=(",", ":"))
    return Chart(label, text.replace("<", "\\u003c"), height_px, min_width_px)


def log_ticks(values: Sequence[float], most: int = 5) -> dict[str, Any]:
    """Settings of a logarithmic axis: round numbers within the values, with their digits written out."""
    low, high = min(values), max(values)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    ticks = [tick for tick in fine if low * 0.9 <= tick <= high * 1.1]
    if len(ticks) > most:
        whole = [10.0**decade for decade in decades if low * 0.9 <= 10.0**decade <= high * 1.1]
        ticks = whole[:: math.ceil(len(whole) / most)]
    if len(ticks) < 2:
        ticks = [float(f"{low:.2g}"), float(f"{high:.2g}")]
    return {"type": "log", "tickmode": "array", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def plotly_script() -> str:
    """plotly.js as it is embedded once."""
    return str(get_plotlyjs())


def thinned(items: Sequence[_Item], most: int) -> list[_Item]:
    """At most so many, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    step = (len(items) - 1) / (most - 1)
    return [items[round(index * step)] for index in range(most)]
