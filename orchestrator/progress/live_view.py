"""View of a running sweep in a terminal, redrawn twice a second."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.plain_output import add_column, add_row, cell
from orchestrator.progress.snapshot import Ranked, Running, Snapshot
from orchestrator.records.budget import as_duration
from orchestrator.records.ledger import TrialStatus
from orchestrator.results.notebook_table import params_text

_ORDER = sorted(TrialStatus, key=lambda status: status is TrialStatus.RUNNING)  # running trials come last
_BAD = (TrialStatus.DIVERGED, TrialStatus.FAILED)
_FIXED_LINES = 7
_BAR_WIDTH = 36
PROGRESS_HEADINGS = ("step", "img/s", "loss", "left")
"""Headings of `progress_cells`."""


def live_view(snapshot: Snapshot, notes: Sequence[str], height: int) -> RenderableType:
    """Return the view of a running sweep.

    Args:
        snapshot: State of the sweep.
        notes: Warnings, the newest last.
        height: Height of the terminal in lines; the leaderboard is cut to fit.
    """
    blocks: list[RenderableType] = [_headline(snapshot), cell(counts_text(snapshot), "dim")]
    if snapshot.usage:
        blocks.append(cell("Budget: " + ", ".join(f"{u.name} {u.used} of {u.limit}" for u in snapshot.usage), "dim"))
    lines = [*_failure_lines(snapshot), *(cell(text, "yellow") for text in notes)]
    room = max(4, height - _FIXED_LINES - len(lines))
    running = snapshot.running[: max(2, room // 2)]
    if running:
        blocks.append(Padding(_running_table(snapshot, running), (1, 0, 0, 0)))
    if snapshot.top:
        rows = max(1, room - len(running) - (3 if running else 1))
        blocks.append(Padding(_leaderboard(snapshot, snapshot.top[:rows]), (1, 0, 0, 0)))
    if lines:
        blocks.append(Padding(Group(*lines), (1, 0, 0, 0)))
    return Group(*blocks)


def counts_text(snapshot: Snapshot) -> str:
    """Return the numbers of trials by status, and the devices in use."""
    counts = snapshot.counts
    parts = [f"{counts[status]} {status.in_words}" for status in _ORDER if counts.get(status)]
    parts += [f"{snapshot.rejected} rejected"] if snapshot.rejected else []
    return ", ".join([*parts, snapshot.devices])


def left_text(snapshot: Snapshot) -> str:
    """Return the time left, and the limit that ends the sweep before its number of trials does."""
    if snapshot.left_s is None:
        return "time left: not known yet"
    by = f", by budget.{snapshot.left_by}" if snapshot.left_by else ""
    return f"about {clock(snapshot.left_s)} left{by}"


def clock(seconds: float) -> str:
    """Return a time as `mm:ss`, or as `h:mm:ss` from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes:02d}:{rest:02d}"


def _headline(snapshot: Snapshot) -> RenderableType:
    line = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=snapshot.wanted, completed=snapshot.ended, width=_BAR_WIDTH)
    line.add_row(
        cell(snapshot.name, "bold"),
        bar,
        Text(f"{snapshot.ended}/{snapshot.wanted} trials"),
        Text(clock(snapshot.totals.wall_s)),
        Text(left_text(snapshot)),
    )
    return line


def _running_table(snapshot: Snapshot, rows: Sequence[Running]) -> Table:
    """Return the running trials; once the progress within an epoch is known, with it in the place of the time held."""
    if any(row.within is not None for row in rows):
        return _progress_table(snapshot, rows)
    table = _table("running", ("epoch", "right"), (snapshot.metric, "right"), ("for", "right"), ("network", "left"))
    for row in rows:
        value = "-" if row.value is None else f"{row.value:.4f}"
        add_row(table, row.trial, f"{row.epoch}/{row.epochs}", value, as_duration(row.held_s), row.model)
    return table


def _progress_table(snapshot: Snapshot, rows: Iterable[Running]) -> Table:
    headings = ("epoch", snapshot.metric, *PROGRESS_HEADINGS)
    table = _table("running", *((heading, "right") for heading in headings), ("network", "left"))
    for row in rows:
        value = "-" if row.value is None else f"{row.value:.4f}"
        add_row(table, row.trial, f"{row.epoch}/{row.epochs}", value, *progress_cells(row), row.model)
    return table


def progress_cells(row: Running) -> tuple[str, str, str, str]:
    """Return steps of the epoch, images per second, loss and time left of a running trial, as text."""
    within = row.within
    if within is None or row.left_s is None:
        return "-", "-", "-", "-"
    loss = f"{within.loss:.3g}" if math.isfinite(within.loss) else "-"
    return f"{within.step}/{within.steps}", f"{within.images_per_s:.0f}", loss, clock(row.left_s)


def _leaderboard(snapshot: Snapshot, rows: Iterable[Ranked]) -> Table:
    table = _table("best", (snapshot.metric, "right"), ("epochs", "right"), ("network", "left"), ("parameters", "left"))
    for index, row in enumerate(rows):
        known = row.status.in_words if row.status is not TrialStatus.FINISHED else ""
        state = ", ".join(word for word in (known, "" if row.feasible else "beyond a constraint") if word)
        params = params_text(row.params, 4) + (f"  ({state})" if state else "")
        style = "bold cyan" if index == 0 else None
        add_row(table, row.trial, f"{row.value:.4f}", row.epochs, row.model, params, style=style)
    return table


def _table(first: str, *columns: tuple[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column(first, justify="right", min_width=7)
    for heading, justify in columns:
        add_column(table, heading, justify=justify, no_wrap=True, overflow="ellipsis")
    return table


def _failure_lines(snapshot: Snapshot) -> list[Text]:
    lines = []
    for reason, count in snapshot.failures:
        times = f"{count} times: " if count > 1 else ""
        lines.append(cell(f"Failed: {times}{reason}", "red"))
        lines[-1].no_wrap, lines[-1].overflow = True, "ellipsis"
    return lines
