"""Style of all charts of a report: colours for a light and a dark page, axes, legend and ticks.

Colours are names of the page's style sheet, such as `var(--accent)`; the page's script replaces them with their values
whenever it draws. Plotly's own classes accept such names.
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
    """Chart as embedded in the page.

    Args:
        label: Description for screen readers.
        content: Data and layout, as JSON that is safe within a script element.
        height_px: Height of the chart in pixels.
        min_width_px: Least width in pixels; on a narrower page the chart scrolls.
    """

    label: str
    content: str
    height_px: int
    min_width_px: int = 0


def figure(*traces: Any, **layout: Any) -> go.Figure:
    """Create a figure without plotly's template."""
    return go.Figure(list(traces), {"template": None, **layout})


def as_chart(drawn: go.Figure, label: str, *, height_px: int, min_width_px: int = 0, legend: bool = False) -> Chart:
    """Apply the style of the report to a figure, ours or Optuna's.

    Args:
        drawn: Figure to style; it is changed.
        label: Description for screen readers.
        height_px: Height of the chart in pixels.
        min_width_px: Least width in pixels; on a narrower page the chart scrolls.
        legend: Whether to show a legend above the chart.
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
    """Return the settings of a logarithmic axis: round ticks within the values, with their digits written out."""
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
    """Return the source of plotly.js, which the page embeds once."""
    return str(get_plotlyjs())


def thinned(items: Sequence[_Item], most: int) -> list[_Item]:
    """Return at most `most` items, evenly spread, including the first and the last."""
    if len(items) <= most:
        return list(items)
    step = (len(items) - 1) / (most - 1)
    return [items[round(index * step)] for index in range(most)]
