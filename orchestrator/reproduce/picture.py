"""Picture of a table: every seed, means with intervals, and paired differences beside the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.reproduce.result import RowResult, TableResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#888888"
_DPI = 150
_SETTINGS: Any = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(result: TableResult, path: Path) -> None:
    """Draw the rows from top to bottom and write them as PNG.

    Args:
        result: Result of the table, with at least one value.
        path: File to write.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = list(result.rows)
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(9.5, 1.6 + 0.42 * len(rows)), layout="constrained")
        left, *right = figure.subplots(1, 2 if result.table.control else 1, sharey=True, squeeze=False)[0]
        _values(left, rows, result)
        for axes in right:
            _differences(axes, rows, result)
        left.set_yticks(range(len(rows)), [_tick(row, result.measure.decimals) for row in rows])
        left.set_ylim(len(rows) - 0.5, -0.5)
        figure.suptitle(f"{result.table.title}\n{result.scale.in_words}", fontsize=9, wrap=True)
        figure.savefig(path, dpi=_DPI, format="png")


def _values(axes: Axes, rows: list[RowResult], result: TableResult) -> None:
    for place, row in enumerate(rows):
        if row.measured is None:
            axes.text(
                0.5, place, "no value", transform=axes.get_yaxis_transform(), ha="center", va="center", color=_GREY
            )
            continue
        axes.plot(list(row.values.values()), [place] * len(row.values), "o", color=_BLUE, alpha=0.35, markersize=3.5)
        width = row.measured.half_width or 0.0
        axes.errorbar(row.measured.mean, place, xerr=width, fmt="o", color=_BLUE, capsize=3, markersize=5)
        if row.published is not None and result.scale.name == "paper":
            axes.plot(row.published, place, "D", color=_ORANGE, markersize=5)
    unit = f" ({result.measure.unit})" if result.measure.unit else ""
    axes.set_xlabel(f"{result.measure.words}{unit}")
    axes.set_title("measured: seeds, mean, 95% interval")
    axes.grid(axis="x", alpha=0.25, linewidth=0.5)


def _differences(axes: Axes, rows: list[RowResult], result: TableResult) -> None:
    axes.axvline(0.0, color=_GREY, linewidth=0.8)
    for place, row in enumerate(rows):
        if row.difference is not None:
            width = row.difference.half_width or 0.0
            axes.errorbar(row.difference.mean, place, xerr=width, fmt="o", color=_BLUE, capsize=3, markersize=5)
        if row.published_difference is not None:
            axes.plot(row.published_difference, place, "D", color=_ORANGE, markersize=5)
    unit = " (points)" if result.measure.unit == "%" else f" ({result.measure.unit})"
    axes.plot([], [], "o", color=_BLUE, label="measured")
    if any(row.published_difference is not None for row in rows):
        axes.plot([], [], "D", color=_ORANGE, label="published")
    axes.legend(loc="best")
    axes.set_xlabel(f"difference to {result.table.control}{unit}")
    axes.set_title("paired by seed, 95% interval")
    axes.grid(axis="x", alpha=0.25, linewidth=0.5)


def _tick(row: RowResult, decimals: int) -> str:
    published = "not published" if row.published is None else f"published {row.published:.{decimals}f}"
    if row.published is None and row.published_difference is not None:
        published = f"published {row.published_difference:+.{decimals}f}"
    return f"{row.label}\n{published}"
