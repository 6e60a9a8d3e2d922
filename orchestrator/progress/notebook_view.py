"""View of a sweep in a notebook: a table of plain HTML, redrawn in its place."""

from __future__ import annotations

import html
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.progress.live_view import PROGRESS_HEADINGS, clock, counts_text, left_text, progress_cells
from orchestrator.progress.steering_panel import SteeringPanel, panel_while_running
from orchestrator.records.folder.sweep_folder import SweepFolder
from orchestrator.results.notebook_table import html_table, params_text

if TYPE_CHECKING:
    from orchestrator.progress.snapshot import Snapshot

_BAR = (
    '<div style="max-width:36em;height:6px;border-radius:3px;background:#8884;margin:4px 0">'
    '<div style="width:{share:.0f}%;height:6px;border-radius:3px;background:#2f5bd7"></div></div>'
)


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook; IPython is not imported to find out."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class NotebookDisplay:
    """Output of a notebook cell that is redrawn in its place, with buttons below it where the kernel answers them."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._panel: SteeringPanel | None = None

    def offer_buttons(self, folder: SweepFolder) -> str:
        """Show buttons that steer the sweep; return a line for the user where they cannot be shown here.

        Args:
            folder: Folder of the running sweep.
        """
        from IPython.display import display

        panel = panel_while_running(folder)
        if isinstance(panel, str):
            return panel
        self._panel = panel
        display(panel.widget)
        return ""

    def show_trials(self, numbers: Sequence[int]) -> None:
        """Offer other trials at the buttons; has no effect where there are none.

        Args:
            numbers: Numbers of the running and paused trials.
        """
        if self._panel is not None:
            self._panel.show_trials(numbers)

    def show(self, text: str) -> None:
        """Replace the output by other HTML.

        Args:
            text: HTML to show.
        """
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(text), display_id=True)
        else:
            self._handle.update(HTML(text))


def snapshot_html(snapshot: Snapshot, notes: Sequence[str]) -> str:
    """Return a snapshot as HTML, with notes below it.

    Args:
        snapshot: State of the sweep.
        notes: Lines and warnings, the newest last.
    """
    head = f"{snapshot.ended}/{snapshot.wanted} trials, {clock(snapshot.totals.wall_s)}, {left_text(snapshot)}"
    lines = [
        f"<b>{html.escape(snapshot.name)}</b> {html.escape(head)}",
        _BAR.format(share=100 * snapshot.ended / snapshot.wanted),
        html.escape(counts_text(snapshot)),
    ]
    if snapshot.usage:
        limits = ", ".join(f"{usage.name} {usage.used} of {usage.limit}" for usage in snapshot.usage)
        lines.append(f"<br>Budget: {html.escape(limits)}")
    within = any(row.within is not None for row in snapshot.running)
    running = [
        (
            row.trial,
            f"{row.epoch}/{row.epochs}",
            "-" if row.value is None else f"{row.value:.4f}",
            *(progress_cells(row) if within else ()),
            row.model,
        )
        for row in snapshot.running
    ]
    headings = ("running", "epoch", snapshot.metric, *(PROGRESS_HEADINGS if within else ()), "network")
    lines.append(html_table(headings, running))
    top = [
        (row.trial, f"{row.value:.4f}", row.epochs, str(row.status), row.model, params_text(row.params, 6))
        for row in snapshot.top
    ]
    lines.append(html_table(("best", snapshot.metric, "epochs", "status", "network", "parameters"), top))
    lines += [f"<div>Failed {count} time(s): {html.escape(reason)}</div>" for reason, count in snapshot.failures]
    lines += [f"<div>{html.escape(text)}</div>" for text in notes]
    return f"<div>{''.join(lines)}</div>"
